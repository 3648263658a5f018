"""The ledger: what its file may say, how intervals become verdicts, and what is decided from runs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from report_helpers import BASE, measure_rows, write_items, write_run

from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.bootstrap import Estimate
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.evidence.decide import decide_claims, newest_measurements, with_interval, write_ledger
from hetexp.reporting.evidence.ledger import Ledger, read_ledger
from hetexp.reporting.evidence.measurements import Measurements, Resampling
from hetexp.reporting.evidence.statistics import STATISTICS
from hetexp.reporting.evidence.verdicts import (
    CONTRADICTED,
    HOLDS,
    NOT_MEASURED,
    UNDECIDED,
    Decision,
    adjusted,
    decide,
    verdict,
)
from hetexp.reporting.products import decide as decide_product
from hetexp.reporting.runs import read_run

ENTRY = {
    "id": "one", "section": "5", "claim": "A beats B", "statistic": "difference", "data": "table1", "margin": 0.3,
    "unit": "points", "arguments": {"panel": "segm", "metric": "AP", "threshold": 1.0, "one": "gae", "other": "odam"},
}  # fmt: skip


def ledger_of(tmp_path: Path, *entries: dict[str, Any]) -> Ledger:
    path = tmp_path / f"claims-{len(list(tmp_path.glob('claims-*')))}.yaml"
    OmegaConf.save(OmegaConf.create({"resamples": 100, "seed": 0, "claims": list(entries)}), path)
    return read_ledger(path)


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        (">", 0.4, 2.0, HOLDS),
        (">", 0.2, 2.0, UNDECIDED),  # perhaps less than what counts
        (">", -0.1, 0.1, UNDECIDED),
        (">", -2.0, -0.4, CONTRADICTED),
        ("≥", -0.2, 2.0, HOLDS),
        ("≥", -0.4, 2.0, UNDECIDED),
        ("≥", -2.0, -0.4, CONTRADICTED),
        ("≈", -0.2, 0.2, HOLDS),
        ("≈", 0.2, 0.5, UNDECIDED),
        ("≈", 0.4, 0.5, CONTRADICTED),
        ("≈", -0.5, -0.4, CONTRADICTED),
        ("≤", -2.0, 0.2, HOLDS),
        ("≤", 0.4, 2.0, CONTRADICTED),
        ("<", -2.0, -0.4, HOLDS),
        ("<", -2.0, -0.2, UNDECIDED),
        (">", float("nan"), float("nan"), UNDECIDED),
    ],
)
def test_verdicts_of_intervals(relation: Any, low: float, high: float, expected: str) -> None:
    assert verdict(relation, low, high, 0.3) == expected
    assert verdict(relation, low + 50, high + 50, 0.3, against=50) == expected


def test_p_values_are_adjusted_within_their_family() -> None:
    resampled = np.array([*np.full(99, 1.0), -1.0])
    decisions = {name: decide(Estimate(1.0, resampled, 4), ">", 0.3) for name in ("a", "b", "c")}
    decisions["none"] = Decision(NOT_MEASURED)
    found = adjusted(decisions, {"a": "first", "b": "first", "c": "second", "none": "first"})
    single = 2 * 2 / 101
    assert [found[name].p for name in "abc"] == pytest.approx([single] * 3)
    assert found["a"].p_holm == found["b"].p_holm == pytest.approx(2 * single)
    assert found["c"].p_holm == pytest.approx(single)
    assert found["none"].p_holm is None


def test_the_ledger_of_the_paper_is_sound() -> None:
    ledger = read_ledger()
    assert list(ledger.orders) == ["table1", "table2"]
    assert ledger.orders["table1"].text == "Ours (noised) ≥ GAE > Ours (pos) > Ours (abs) > ODAM"
    assert len(ledger.of_order("table1")) == 60
    assert {claim.statistic for claim in ledger.claims} - {""} <= set(STATISTICS)
    assert all(claim.margin > 0 for claim in ledger.claims)
    assert not any(claim.awaits for claim in ledger.claims), "every claim has a statistic"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claim": ""}, "every claim needs id, section, claim"),
        ({"wieght": 1}, "claim 'one' has unknown key wieght: known are"),
        ({"awaits": "a run"}, "needs a statistic, or awaits"),
        ({"relation": "=>"}, "relation '=>': choose among >, ≥"),
        ({"order": ["gae", ">"]}, "expected methods with > or ≥ between them"),
        ({"order": ["gae", "<", "odam"]}, "expected methods with > or ≥ between them"),
    ],
)
def test_unsound_entries_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ledger_of(tmp_path, ENTRY | change)


def test_unsound_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has two claims 'one'"):
        ledger_of(tmp_path, ENTRY, ENTRY)
    with pytest.raises(ConfigError, match="needs data, margin and unit"):
        ledger_of(tmp_path, {k: v for k, v in ENTRY.items() if k != "margin"})
    (tmp_path / "bad.yaml").write_text("claims: [")
    with pytest.raises(ConfigError, match="is no file of claims"):
        read_ledger(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="no order 'table9': it has table1, table2"):
        read_ledger().of_order("table9")


def test_an_unknown_statistic_lists_the_known_ones(outputs: Path, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, ENTRY | {"statistic": "guess"})
    with pytest.raises(ConfigError, match="'guess', which does not exist: choose among difference"):
        decide_claims(ledger.claims, newest_measurements(outputs, ledger))
    ledger = ledger_of(tmp_path, ENTRY | {"arguments": {"panel": "segm"}})
    with pytest.raises(ConfigError, match="statistic difference does not fit"):
        decide_claims(ledger.claims, newest_measurements(outputs, ledger))


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    rows = measure_rows("table1", "localisation", {"gae": {"word_rank": 20.0}})
    write_items(write_run(tmp_path / "outputs" / "runs" / "a", [r | {"model": "lxmert"} for r in rows]))
    ledger = ledger_of(tmp_path, ENTRY)
    with pytest.raises(DataError, match=r"claim 'one' cannot be decided: .* no AP of gae .*localisation word_rank"):
        decide_claims(ledger.claims, newest_measurements(tmp_path / "outputs", ledger))


def test_nothing_to_decide_with_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"python run.py \+experiment=table1"):
        decide_product(tmp_path)


def test_what_was_not_run_is_not_measured(outputs: Path, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, ENTRY, ENTRY | {"id": "two", "data": "table3"})
    found = decide_claims(ledger.claims, newest_measurements(outputs, ledger))
    assert found["one"].verdict == HOLDS
    assert found["one"].estimate == pytest.approx(13.1 - 1.9)
    assert found["two"].verdict == NOT_MEASURED
    assert "python run.py +experiment=table3" in found["two"].why


def test_the_whole_ledger_is_written(outputs: Path) -> None:
    made = decide_product(outputs)
    frame = pd.read_csv(made.paths[0]).set_index("id")
    assert [p.name for p in made.paths] == ["claims.csv", "claims.md", "claims.tex", "evidence.html"]
    assert len(frame) == len(read_ledger().claims)
    assert frame.loc["noise-raises-otsu", "verdict"] == HOLDS
    assert frame.loc["noise-raises-otsu", "estimate"] == pytest.approx(13.2 - 11.6)
    assert frame.loc["ranking-turns-over", "estimate"] == pytest.approx((13.2 - 11.6) - (7.3 - 8.9))
    assert "+experiment=rule_time" in frame.loc["cheaper-than-gae", "why"]
    assert "holds no single items" in frame.loc["image-negative", "why"]
    assert "python run.py +experiment=figure6" in frame.loc["image-negative", "why"]
    assert "detr@0123456789ab on scenes" in made.text
    assert "≥" not in made.paths[2].read_text()


def test_share_counts_items_and_ties_half(tmp_path: Path) -> None:
    values = {"a": [0.1, 0.5, 0.3, 0.2], "b": [0.2, 0.1, 0.3, 0.1]}
    run = write_run(tmp_path / "run", [{**BASE, "experiment": "x", "panel": "p", "metric": "m", "value": 1.0}])
    (run / "items").mkdir()
    rows = [
        {"method": m, "threshold": None, "panel": "p", "metric": "m", "item": str(i), "image": str(i // 2), "value": v}
        for m, found in values.items()
        for i, v in enumerate(found)
    ]
    pd.DataFrame(rows).astype({"threshold": float}).to_parquet(run / "items" / "values.parquet")
    pd.DataFrame({"image": ["0", "1"]}).to_parquet(run / "items" / "units.parquet")
    pd.DataFrame(columns=["method", "threshold", "panel", "file"]).to_parquet(run / "items" / "matches.parquet")
    found = Measurements(read_run(run), Resampling(50, 0))
    share = STATISTICS["share"]({"x": found}, one="a", other="b", panel="p", metric="m")
    assert share.value == pytest.approx(100 * 2.5 / 4)
    assert set(share.resampled.round(6)) <= {50.0, 62.5, 75.0}
    smaller = STATISTICS["share"]({"x": found}, one="a", other="b", panel="p", metric="m", smaller_is_better=True)
    assert smaller.value == pytest.approx(100 * 1.5 / 4)


def test_numbers_as_printed() -> None:
    assert with_interval(1.234, 0.9, -2.0, sign=True) == "+1.23 [+0.90, −2.00]"
    assert with_interval(19.72, None, None) == "19.7"
    assert with_interval(None, None, None) == ""


def test_damaged_items_are_named(outputs: Path, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, ENTRY)
    (next(outputs.glob("runs/*/*_table1")) / "items" / "values.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"values\.parquet is damaged"):
        decide_claims(ledger.claims, newest_measurements(outputs, ledger))


def test_written_ledger_says_what_it_was_made_of(outputs: Path, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, ENTRY)
    runs = newest_measurements(outputs, ledger)
    _, text = write_ledger(ledger, decide_claims(ledger.claims, runs), runs, tmp_path / "to")
    assert "1 holds" in text
    assert "100 resamples" in text
