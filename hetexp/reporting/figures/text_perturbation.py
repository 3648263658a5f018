"""Probability of written words as source tokens are removed, in both orders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.figures.curves import draw_curves
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.ground_truth import TEXT_PERTURBATION
from hetexp.reporting.names import method_name
from hetexp.reporting.runs import Run

TITLES = {
    "negative": "(a) least relevant first: larger area is better",
    "positive": "(b) most relevant first: smaller area is better",
}


def curve_frame(run: Run) -> pd.DataFrame:
    """Probability per order, method and removed fraction, tidy.

    Raises:
        DataError: if the run has none.
    """
    named = run.frame["metric"].str.extract(r"^(?P<order>[^@]+)@(?P<removed>.+)$")
    frame = run.frame.assign(**named)[named["removed"].notna() & (run.frame["panel"] == TEXT_PERTURBATION.panel)]
    if frame.empty:
        command = experiment_command(TEXT_PERTURBATION.experiment)
        raise DataError(f"{run.folder / 'results.csv'} holds no curves of removed text: run `{command}`")
    columns = ["order", "method", "removed", "value", "ci_low", "ci_high", "n"]
    found = frame[columns].astype({"removed": float})
    return found.sort_values(["order", "method", "removed"], ignore_index=True)


def draw_text_perturbation(run: Run) -> Figure:
    """Two panels, probability against the removed share, one curve per method, areas in the legends."""
    curves, areas = curve_frame(run), TEXT_PERTURBATION.frame(run)
    styles = method_styles(curves["method"])
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9), layout="constrained", sharey=True)
        for (order, title), ax in zip(TITLES.items(), axes, strict=True):
            own = areas[areas["metric"] == order]
            labels = {m: f"{method_name(m)}: {v:.1f}" for m, v in zip(own["method"], own["value"], strict=True)}
            part = curves[curves["order"] == order].rename(columns={"value": "accuracy"})
            draw_curves(ax, part, styles, labels)
            ax.set_title(title, loc="left")
            ax.set_xlabel("removed share of source words")
            ax.legend(
                title="area", title_fontsize=6, alignment="left", frameon=False, handlelength=1.6,
                loc="upper left", bbox_to_anchor=(1.0, 1.03), borderaxespad=0.2,
            )  # fmt: skip
        axes[0].set_ylabel("probability of the written word (%)")
    return figure


def write_text_perturbation(run: Run, folder: Path) -> list[Path]:
    """Write `text_perturbation.png` and `.pdf`, and the curves as `text_perturbation_curves.csv`."""
    path = folder / "text_perturbation_curves.csv"
    text = curve_frame(run).round(4).to_csv(index=False, lineterminator="\n")
    return [*save(draw_text_perturbation(run), folder / "text_perturbation"), atomic_write(path, text)]
