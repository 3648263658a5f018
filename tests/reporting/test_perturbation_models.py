"""Figure 6 for several models: its tables, how alike the orders are, its picture, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from report_helpers import perturbation_rows, write_run

from hetexp.errors import DataError
from hetexp.reporting.figures.perturbation_models import draw_models, write_models
from hetexp.reporting.names import PANEL_NAMES
from hetexp.reporting.perturbation_models import by_model, orders, table_frame, to_markdown, write_table
from hetexp.reporting.runs import Run, read_run

AREAS = {
    "lxmert": {"gae": 60.0, "odam": 50.0, "ours_abs": 65.0, "random": 55.0},
    "visual_bert": {"gae": 70.0, "odam": 40.0, "ours_abs": 66.0, "random": 45.0},
}


def rows(models: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [
        {**row, "experiment": "figure6_models", "model": model, "checkpoint": f"{model}@ba9876543210"}
        for model, areas in models.items()
        for row in perturbation_rows(areas)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(write_run(tmp_path / "run", rows(AREAS)))


def test_table_has_both_models(run: Run, tmp_path: Path) -> None:
    frame = table_frame(by_model(run))
    assert frame.shape == (8, 4)
    assert frame.loc[("VisualBERT", "GAE")].iloc[0] == "70.0 [69.0, 71.0]"
    assert frame.loc[("LXMERT", "GAE")].iloc[1] == "60.0 [59.0, 61.0] ×", "smaller is better where it removes first"
    paths, text = write_table(run, tmp_path)
    assert [p.name for p in paths] == ["figure6_models.csv", "figure6_models.md", "figure6_models.tex"]
    assert "VisualBERT (visual_bert@ba9876543210): 95.0 [94.0, 96.0]" in text
    assert text.index("LXMERT:") < text.index("VisualBERT:\n")
    assert "+experiment=figure6_models" in text
    assert len(pd.read_csv(paths[0])) == 8


def test_orders_are_compared_panel_by_panel(run: Run) -> None:
    alike = orders(by_model(run))
    assert list(alike.columns) == list(PANEL_NAMES.values())
    # of the six pairs of methods, one stands the other way round: gae before ours_abs
    assert alike.loc["VisualBERT"].tolist() == pytest.approx([(5 - 1) / 6] * 4)
    assert "0.67" in to_markdown(run)


def test_a_row_of_panels_per_model(run: Run, tmp_path: Path) -> None:
    figure = draw_models(by_model(run))
    assert len(figure.axes) == 8
    assert [ax.get_ylabel().split("\n")[0] for ax in figure.axes[::4]] == ["LXMERT", "VisualBERT"]
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "Random (control)"
    drawn = {line.get_label(): np.asarray(line.get_ydata())[-1] for line in figure.axes[4].lines}
    assert drawn["GAE"] == pytest.approx(70)
    plt.close(figure)
    paths = write_models(run, tmp_path)
    assert [p.name for p in paths] == ["figure6_models.png", "figure6_models.pdf", "figure6_models.csv"]
    curves = pd.read_csv(paths[2])
    assert curves.groupby("model").size().to_dict() == {"lxmert": 144, "visual_bert": 144}


def test_a_comparison_needs_two_models(tmp_path: Path) -> None:
    one = read_run(write_run(tmp_path / "run", rows({"lxmert": AREAS["lxmert"]})))
    with pytest.raises(DataError, match=r"holds lxmert: a comparison needs two models.*\+experiment=figure6_models"):
        by_model(one)
