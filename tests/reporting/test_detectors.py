"""The comparison of detectors: its table, how alike the orders are, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from latex_checks import check, check_signs
from report_helpers import write_items, write_run

from hetexp.errors import DataError
from hetexp.reporting.detectors import (
    compare_detectors,
    measures_frame,
    orders,
    table_frame,
    to_latex,
    to_markdown,
    write_table,
)
from hetexp.reporting.figures.detectors import draw_detectors
from hetexp.reporting.runs import Run, read_run

AP = {  # at 0.3 and at 1.0
    "detr": {"gae": (10.0, 30.0), "ours_abs": (20.0, 20.0), "ours_pos": (30.0, 10.0)},
    "deformable_detr": {"gae": (12.0, 11.0), "ours_abs": (14.0, 25.0), "ours_pos": (16.0, 20.0)},
}


def rows(measures: bool = True) -> pd.DataFrame:
    common = {"experiment": "detectors", "data": "scenes", "n": 400}
    out = []
    for model, by_method in AP.items():
        own = {**common, "model": model, "checkpoint": f"{model}@1"}
        for method, values in by_method.items():
            for scale, value in zip((0.3, 1.0), values, strict=True):
                out.append(
                    {**own, "method": method, "threshold": scale, "panel": "segm", "metric": "AP", "value": value}
                    | {"ci_low": value - 1, "ci_high": value + 1}
                )
            if measures:
                out.append(
                    {**own, "method": method, "threshold": None, "panel": "ground_truth", "metric": "AUPRC"}
                    | {"value": values[0] + 50, "ci_low": values[0] + 49, "ci_high": values[0] + 52}
                )
    return pd.DataFrame(out)


def run(frame: pd.DataFrame, tmp_path: Path) -> Run:
    return Run(tmp_path, frame)


def test_the_decidedly_best_of_each_detector_is_bold(tmp_path: Path) -> None:
    frames = []
    for job, (_, frame) in enumerate(rows().groupby("model", sort=False)):
        frames.append(read_run(write_items(write_run(tmp_path / str(job), frame.to_dict("records")))).frame)
    tex = to_latex(run(pd.concat(frames), tmp_path))
    first, second = tex.split(r"\emph{Deformable DETR}")
    assert r"GAE & \textbf{30.0} & 10.0 & 30.0 (1) & 60.0 \\" in first
    assert r"Ours (pos) & 10.0 & \textbf{30.0} & 30.0 (0.3) & \textbf{80.0} \\" in first
    assert r"Ours (abs) & \textbf{25.0} & 14.0 & " in second
    check(tex)
    check_signs(tex)


def test_orders_are_compared_by_rank(tmp_path: Path) -> None:
    """At 0.3 both put GAE last and pos first; at 1.0 one of three pairs agrees: tau = (1 - 2) / 3."""
    alike = orders(compare_detectors(run(rows(), tmp_path)))
    assert list(alike.index) == ["Deformable DETR"]
    assert alike.loc["Deformable DETR", "0.3"] == pytest.approx(1.0)
    assert alike.loc["Deformable DETR", "1"] == pytest.approx(-1 / 3)


def test_cells_hold_value_interval_and_best_scale(tmp_path: Path) -> None:
    found = compare_detectors(run(rows(), tmp_path))
    table = table_frame(found)
    assert table.loc["GAE", "DETR, 1"] == "30.0 [29.0, 31.0]"
    assert table.loc["GAE", "DETR, best"] == "30.0 (1)"
    assert table.loc["Ours (pos)", "DETR, best"] == "30.0 (0.3)"
    assert measures_frame(found).loc["Ours (abs)", "Deformable DETR, AUPRC"] == "64.0 [63.0, 66.0]"


def test_files_hold_both_parts(tmp_path: Path) -> None:
    paths, text = write_table(run(rows(), tmp_path), tmp_path / "tables")
    assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
    assert "without a threshold" in text
    assert "64.0 [63.0, 66.0]" in paths[0].read_text()
    assert "without a threshold" not in to_markdown(run(rows(measures=False), tmp_path))


def test_the_figure_has_a_panel_for_each(tmp_path: Path) -> None:
    figure = draw_detectors(compare_detectors(run(rows(), tmp_path)))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["DETR", "Deformable DETR"]


@pytest.mark.parametrize("missing", ["model", "scale"])
def test_a_comparison_needs_two_detectors_and_both_scales(missing: str, tmp_path: Path) -> None:
    frame = rows()
    frame = frame[frame["model"] == "detr"] if missing == "model" else frame[frame["threshold"] != 0.3]
    with pytest.raises(DataError, match=r"needs two detectors and the scales \[1.0, 0.3\]"):
        compare_detectors(run(frame, tmp_path))
