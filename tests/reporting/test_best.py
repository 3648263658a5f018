"""What is set in bold, and areas between random and an oracle: numbers known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_helpers import perturbation_rows, write_items, write_run

from hetexp.evaluation.bootstrap import Estimate
from hetexp.reporting import perturbation
from hetexp.reporting.evidence.best import decided_best, items_of
from hetexp.reporting.evidence.statistics import in_percent_of
from hetexp.reporting.runs import Run, read_run

PANELS = list(perturbation.LARGER_IS_BETTER)


def estimates(**resampled: list[float]) -> dict[str, Estimate]:
    return {name: Estimate(float(np.mean(r)), np.array(r, dtype=float), 9) for name, r in resampled.items()}


def best(found: dict[str, Estimate], smaller: bool = False) -> str | None:
    return decided_best({name: e.value for name, e in found.items()}, found.__getitem__, smaller)


def test_the_best_is_decided_against_the_runner_up_and_in_pairs() -> None:
    apart = estimates(gae=[9, 10, 11], odam=[1, 2, 3], ours_abs=[8, 9, 10])
    assert best(apart) == "gae", "1 ahead on every resample, though the intervals overlap"
    assert best(apart, smaller=True) == "odam"
    assert best(estimates(gae=[9, 10, 11], odam=[1, 2, 3], ours_abs=[10, 9, 8])) is None, "behind on one resample"
    assert best(estimates(gae=[5, 6], odam=[5, 6])) is None, "two that are equal"
    assert best(estimates(gae=[5, 6])) is None, "alone"


def test_controls_and_methods_without_a_value_are_not_the_best() -> None:
    found = estimates(oracle=[99, 99], random=[98, 98], gae=[9, 10], odam=[1, 2])
    assert best(found) == "gae"
    values = {"gae": 9.5, "odam": 1.5, "rollout": float("nan"), "grad_cam": None}
    assert decided_best(values, found.__getitem__) == "gae"


def run_of(folder: Path, areas: dict[str, float], flipped: dict[str, float] | None = None) -> Run:
    """Areas of methods; in positive panels those of `flipped`."""
    rows = perturbation_rows(areas)
    for row in rows:
        if flipped and row["metric"] == "AUC" and str(row["panel"]).endswith("positive"):
            row["value"] = flipped[row["method"]]
    return read_run(write_items(write_run(folder, rows)))


def test_an_area_between_random_and_the_oracle(tmp_path: Path) -> None:
    """Negative: (60 - 55) / (75 - 55) = 25 %; positive, where smaller is better: (50 - 60) / (20 - 60) = 25 %."""
    run = run_of(
        tmp_path / "run",
        {"gae": 60.0, "odam": 53.0, "random": 55.0, "oracle": 75.0},
        {"gae": 50.0, "odam": 70.0, "random": 60.0, "oracle": 20.0},
    )
    found = perturbation.normalised(run)
    for panel in PANELS:
        assert found["gae", panel] == pytest.approx((25.0, 25.0, 25.0)), "every image moves all areas alike"
        assert found["random", panel] == (0.0, None, None)
        assert found["oracle", panel] == (100.0, None, None)
    assert found["odam", "text_negative"][0] == pytest.approx(-10.0), "worse than random"
    assert found["odam", "text_positive"][0] == pytest.approx(-25.0)
    frame = perturbation.joined(run)
    assert frame.loc["GAE", "Negative, image ↑"].startswith("60.0 [")
    assert frame.loc["GAE", "Negative, image, of the oracle's"] == "25.0 [25.0, 25.0]"
    text = perturbation.to_markdown(run)
    assert "(AUC − random) / (oracle − random)" in text
    assert "share of their box that the objects cover which decide the answer" in text


def test_no_share_without_both_ends_or_with_an_oracle_no_better_than_random(tmp_path: Path) -> None:
    alone = run_of(tmp_path / "alone", {"gae": 60.0, "random": 55.0})
    assert perturbation.normalised(alone) == {}
    assert list(perturbation.joined(alone).columns) == list(perturbation.auc_table(alone).columns)
    assert "controls=[oracle]" in perturbation.to_markdown(alone)
    # areas alike in all panels: the oracle is better where larger is better only
    found = perturbation.normalised(run_of(tmp_path / "run", {"gae": 60.0, "random": 55.0, "oracle": 75.0}))
    assert {panel for _, panel in found} == {"image_negative", "text_negative"}
    nothing_left = read_run(write_run(tmp_path / "bare", perturbation_rows({"gae": 60, "random": 55, "oracle": 75})))
    assert perturbation.normalised(nothing_left) == {}


def test_a_share_of_nothing_is_no_number() -> None:
    found = estimates(part=[1, 2, 3], whole=[2, 0, 4])
    assert in_percent_of(found["part"], found["whole"]).value == pytest.approx(100.0)
    assert np.isinf(in_percent_of(found["part"], found["whole"]).resampled[1])
    assert np.isnan(in_percent_of(found["part"], found["part"] - found["part"]).value)


def test_items_of_a_sweep_are_those_of_the_models_own_job(tmp_path: Path) -> None:
    frames = []
    for job, (model, area) in enumerate({"lxmert": 60.0, "visual_bert": 40.0}.items()):
        rows = [{**row, "model": model} for row in perturbation_rows({"gae": area})]
        frames.append(read_run(write_items(write_run(tmp_path / "sweep" / str(job), rows))).frame)
    whole = Run(tmp_path / "sweep", pd.concat(frames))
    assert items_of(whole) is None, "no one job ran both"
    own = items_of(Run(whole.folder, whole.frame[whole.frame["model"] == "visual_bert"]))
    assert own is not None
    assert own.estimate("gae", "image_negative", "AUC").value == pytest.approx(40.0)
