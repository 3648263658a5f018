from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_helpers import measure_rows, perturbation_rows, table_rows, write_items, write_run

from hetexp.attribution.registry import METHODS, MethodRecord
from hetexp.errors import ConfigError, DataError
from hetexp.reporting import ground_truth, perturbation
from hetexp.reporting.evidence.verdicts import HOLDS, NOT_MEASURED, UNDECIDED
from hetexp.reporting.latex import GAP, escape
from hetexp.reporting.names import PAPER_METHODS
from hetexp.reporting.published import METRICS
from hetexp.reporting.runs import Run, newest_run, read_run
from hetexp.reporting.tables import (
    ComparedTable,
    claims_frame,
    compare,
    csv_frame,
    summaries,
    to_latex,
    to_markdown,
    wide,
    with_intervals,
    write_table,
)


def run_of(folder: Path, rows: list[dict[str, Any]], items: bool = True) -> Run:
    write_run(folder, rows)
    return read_run(write_items(folder) if items else folder)


def decided(table: ComparedTable) -> dict[tuple[str, str], str]:
    return {(c.arguments["metric"], c.pair): d.verdict for c, d in table.claims}


@pytest.mark.parametrize("number", [1, 2])
def test_the_papers_own_numbers_carry_its_claims(number: int, tmp_path: Path) -> None:
    """As far as its differences exceed the margin: numbers with one decimal that hardly differ decide nothing."""
    table = compare(run_of(tmp_path / "run", table_rows(number)), number)
    assert len(table.claims) == len(METRICS) * 10
    for claim, found in table.claims:
        one, other = (table.published.value(claim.arguments["metric"], claim.arguments[k]) for k in ("one", "other"))
        assert found.estimate == pytest.approx(one - other, abs=1e-9)
        clear = one - other > (-0.3 if claim.relation == "≥" else 0.3) + 1e-9
        assert found.verdict == (HOLDS if clear else UNDECIDED)


def test_a_tie_satisfies_at_least_but_does_not_decide_more_than(tmp_path: Path) -> None:
    table = compare(run_of(tmp_path / "run", table_rows(1, lambda metric, method, value: 5.0)), 1)
    verdicts = decided(table)
    assert verdicts["AP", "Ours (noised) ≥ GAE"] == HOLDS
    assert verdicts["AP", "GAE > Ours (pos)"] == UNDECIDED
    assert verdicts["AP", "Ours (noised) > Ours (pos)"] == UNDECIDED


def test_a_broken_order_is_named(tmp_path: Path) -> None:
    def swap(metric: str, method: str, value: float) -> float:
        return 1.0 if (metric, method) == ("AP", "ours_abs") else value

    table = compare(run_of(tmp_path / "run", table_rows(1, swap)), 1)
    assert claims_frame(table).loc["Ours (abs) > ODAM", "AP"] == "contradicted (−0.90 [−0.90, −0.90])"
    assert claims_frame(table).loc["Ours (abs) > ODAM", "AR"] == "holds (+9.90 [+9.90, +9.90])"
    first = next(summaries(table))
    assert "9 of 10 pairs hold; contradicted: Ours (abs) > ODAM" in first


def test_absent_sizes_are_no_verdict(tmp_path: Path) -> None:
    rows = table_rows(1, lambda metric, method, value: None if metric == "AP_large" else value)
    table = compare(run_of(tmp_path / "run", rows), 1)
    assert {d.verdict for c, d in table.claims if c.arguments["metric"] == "AP_large"} == {NOT_MEASURED}
    assert set(wide(table).loc["AP_large"].iloc[::2]) == {"n/a"}
    assert "AP_large: not decided (this data has no such objects)." in list(summaries(table))


def test_a_run_without_items_decides_nothing_and_says_how_to_make_it_again(tmp_path: Path) -> None:
    table = compare(run_of(tmp_path / "run", table_rows(1), items=False), 1)
    assert {d.verdict for _, d in table.claims} == {NOT_MEASURED}
    assert r"make it again with `python run.py +experiment=table1`" in next(summaries(table))


def test_intervals_stand_beside_values_which_stay_as_they_are(tmp_path: Path) -> None:
    ends = [r | {"ci_low": r["value"] - 1.04, "ci_high": r["value"] + 2.0} for r in table_rows(1)]
    table = compare(run_of(tmp_path / "run", ends), 1)
    assert with_intervals(table).loc["AP", "GAE"] == "13.1 [12.1, 15.1]"
    assert wide(table).loc["AP", "GAE"] == "13.1"
    frame = csv_frame(table)
    assert list(frame.columns[:10]) == list(wide(table).columns)
    assert frame.loc["AP", ["GAE low", "GAE high"]].tolist() == ["12.1", "15.1"]
    assert "\n & {\\scriptsize [12.1, 15.1]} & " in to_latex(table)


def test_files(outputs: Path, tmp_path: Path) -> None:
    table = compare(newest_run(outputs, "table1"), 1)
    paths = write_table(table, tmp_path / "tables")
    assert [p.name for p in paths] == ["table1.csv", "table1.md", "table1.tex", "table1_claims.csv"]
    frame = pd.read_csv(paths[0], dtype=str)
    assert list(frame.columns[:5]) == ["metric", "GAE", "GAE †", "ODAM", "ODAM †"]
    assert frame.loc[0, "Ours (noised)"] == "13.2"
    text = paths[1].read_text()
    assert "another data set (COCO val2017, facebook/detr-resnet-50)" in text
    assert "Ours (noised) ≥ GAE > Ours (pos) > Ours (abs) > ODAM" in text
    tex = paths[2].read_text()
    assert r"\toprule" in tex
    assert r"$\geq$" in tex
    assert "†" not in tex


def test_further_methods_are_further_columns(tmp_path: Path) -> None:
    """Whatever a run measured is printed, without a published number where the paper has none."""
    rows = table_rows(1)
    for number, method in enumerate(("random", "my_method(power=2)", "ours_abs(noise_link=row)", "ours_full")):
        rows += [r | {"method": method, "value": 40.0 + number} for r in table_rows(1) if r["method"] == "gae"]
    table = compare(read_run(write_run(tmp_path / "run", rows)), 1)
    frame = wide(table)
    further = ["Ours (full)", "Ours (abs), noise_link=row", "my_method(power=2)", "Random (control)"]
    assert list(frame.columns[10:]) == further
    assert list(frame.loc["AP"].iloc[10:]) == ["43.0", "42.0", "41.0", "40.0"]
    assert list(frame.iloc[:, :10]) == list(wide(compare(read_run(write_run(tmp_path / "five", table_rows(1))), 1)))
    assert {c.arguments["one"] for c, _ in table.claims} <= set(PAPER_METHODS)
    assert all(name in to_markdown(table) for name in further)
    tex = to_latex(table)
    assert f"\\begin{{tabular}}{{@{{}}l{'r' * 8}{GAP}{'r' * 5}@{{}}}}" in tex
    whole, controls = tex.split(r"\end{tabular}")[:2]
    assert "Random" not in whole
    assert r"Random (control) & 40.0 & " in controls
    assert r" Ours (abs), & " in tex
    assert r"noise\_link=row" in tex, "in the next line of its heading"


def test_two_methods_of_one_label_keep_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own", MethodRecord("own", "GAE", "somewhere:Own", "mine"))
    rows = table_rows(1) + [r | {"method": "own", "value": 77.0} for r in table_rows(1) if r["method"] == "gae"]
    table = compare(read_run(write_run(tmp_path / "run", rows)), 1)
    assert list(wide(table).loc["AP", "GAE"]) == ["13.1", "77.0"]
    assert to_markdown(table).count(" GAE |") == 2
    assert "77.0" in to_latex(table)


def test_the_papers_data_is_not_called_another(tmp_path: Path) -> None:
    rows = [{**r, "data": "coco_val2017"} for r in table_rows(2)]
    table = compare(read_run(write_run(tmp_path / "run", rows)), 2)
    assert "another data set" not in table.note


def test_newest_run_by_writing_time(outputs: Path) -> None:
    late = write_run(outputs / "runs" / "2025-12-31" / "09-00-00_table1", table_rows(1, lambda *_: 1.0))
    os.utime(late / "results.csv", ns=(2**62, 2**62))
    assert newest_run(outputs, "table1").folder == late


def test_a_sweep_is_one_run(outputs: Path) -> None:
    run = newest_run(outputs, "threshold_sweep")
    assert run.folder.name == "10-20-00"
    assert sorted(run.frame["threshold"].unique()) == [0.3, 0.6, 1.0]


def test_missing_run_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python run.py \+experiment=table1"):
        newest_run(tmp_path, "table1")


def test_a_run_of_some_methods(tmp_path: Path) -> None:
    """What is there is printed, and what is not is named."""
    whole = compare(read_run(write_run(tmp_path / "whole", table_rows(1))), 1)
    rows = [r for r in table_rows(1) if r["method"] not in ("odam", "ours_noised")]
    table = compare(read_run(write_items(write_run(tmp_path / "run", rows))), 1)
    assert list(wide(table).columns) == ["GAE", "GAE †", "Ours (abs)", "Ours (abs) †", "Ours (pos)", "Ours (pos) †"]
    assert wide(table).equals(wide(whole)[wide(table).columns])
    assert "Not in this run: ODAM, Ours (noised)." in to_markdown(table)
    assert "Not in this run" not in to_markdown(whole)
    in_ap = [(claim, found) for claim, found in table.claims if claim.arguments["metric"] == "AP"]
    assert {claim.pair for claim, found in in_ap if found.verdict != NOT_MEASURED} == {
        "GAE > Ours (pos)",
        "GAE > Ours (abs)",
        "Ours (pos) > Ours (abs)",
    }
    assert r"\begin{tabular}" in to_latex(table)


def test_incomplete_or_foreign_results(tmp_path: Path) -> None:
    rows = [r | {"method": "random"} for r in table_rows(1) if r["method"] == "gae"]
    run = read_run(write_run(tmp_path / "run", rows))
    with pytest.raises(DataError, match=r"has none of gae, odam, .* at threshold 1\.0"):
        compare(run, 1)
    with pytest.raises(ConfigError, match="table 3 does not exist"):
        compare(run, 3)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="lacks the column"):
        read_run(tmp_path / "other.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_run(tmp_path / "nothing.csv")


def test_latex_escapes() -> None:
    assert escape("50 % of a_b & c ≥ d") == r"50 \% of a\_b \& c $\geq$ d"
    assert escape("a\\b~c^2") == r"a\textbackslash{}b$\sim$c\^{}2"


def test_auc_table_and_control(tmp_path: Path) -> None:
    run = read_run(
        write_run(tmp_path / "run", perturbation_rows({"ours_pos": 60, "gae": 56, "odam": 40, "random": 55}))
    )
    table = perturbation.auc_table(run)
    assert list(table.index) == ["GAE", "ODAM", "Ours (pos)", "Random (control)"]
    assert table.loc["Ours (pos)", "Negative, image ↑"] == "60.0 [59.0, 61.0]"
    assert table.loc["GAE", "Negative, image ↑"].endswith("~")
    assert table.loc["ODAM", "Negative, image ↑"].endswith("×")
    assert not table.loc["ODAM", "Positive, image ↓"].endswith("×")
    lines = perturbation.control_sentences(run)
    assert lines[0].startswith("Negative, image: ODAM does not beat the random control; GAE is not clearly apart")
    paths, text = perturbation.write_table(run, tmp_path / "tables"), perturbation.to_markdown(run)
    assert [p.suffix for p in paths] == [".csv", ".md", ".tex"]
    assert "95.0 [94.0, 96.0] (300 questions)" in text
    assert "↑" not in paths[2].read_text()


def test_auc_without_a_panel(tmp_path: Path) -> None:
    rows = [r for r in perturbation_rows({"gae": 50.0}) if r["panel"] != "text_negative"]
    with pytest.raises(DataError, match="text_negative"):
        perturbation.auc_table(read_run(write_run(tmp_path / "run", rows)))


def test_measures_of_methods_and_controls(tmp_path: Path) -> None:
    whole = {m: {"AUROC": 90.0, "energy_target": v} for m, v in (("oracle", 70.0), ("gae", 50.0), ("random", 10.0))}
    rows = measure_rows("table3", "ground_truth", whole)
    rows += [r | {"n": 12} for r in measure_rows("table3", "ground_truth/small", {"gae": {"energy_target": 30.0}})]
    run = read_run(write_run(tmp_path / "run", rows))
    table = ground_truth.DETECTION.whole(run)
    assert list(table.index) == ["GAE", "Random (control)", "Oracle (control)"]
    assert list(table.columns) == ["AUROC ↑", "On target ↑"]
    assert table.loc["GAE", "On target ↑"] == "50.0 [49.0, 51.0]"
    part = ground_truth.DETECTION.by_part(run, "energy_target")
    assert list(part.columns) == ["small (12)"]
    paths, text = ground_truth.write_table(ground_truth.DETECTION, run, tmp_path / "tables")
    assert [p.name for p in paths] == ["table3.csv", "table3.md", "table3.tex"]
    assert "300 detected objects of scenes" in text
    assert len(pd.read_csv(paths[0])) == 7
    with pytest.raises(DataError, match=r"has no localisation: make a run with `python run.py \+experiment=table4`"):
        ground_truth.QUESTIONS.whole(run)
