"""Figures drawn from results tables: perturbation curves (Figure 6) and AP against the Otsu scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import PANEL_NAMES, in_order, method_name
from hetexp.reporting.perturbation import LARGER_IS_BETTER, auc_rows
from hetexp.reporting.runs import Run

PREFIX = "accuracy@"


def curve_frame(run: Run) -> pd.DataFrame:
    """Accuracy per panel, method and removed fraction, tidy: what Figure 6 shows.

    Raises:
        DataError: if the run has none.
    """
    frame = run.frame[run.frame["metric"].str.startswith(PREFIX)].copy()
    if frame.empty:
        raise DataError(
            f"{run.folder / 'results.csv'} holds no perturbation curves: run `{experiment_command('figure6')}`"
        )
    frame["removed"] = frame["metric"].str.removeprefix(PREFIX).astype(float)
    columns = ["panel", "method", "removed", "value", "ci_low", "ci_high", "n"]
    return frame[columns].rename(columns={"value": "accuracy"}).sort_values(["panel", "method", "removed"])


def draw_perturbation(run: Run) -> Figure:
    """Figure 6: four panels, accuracy against the removed fraction, one curve per method, AUC in the legend."""
    curves, areas = curve_frame(run), auc_rows(run)
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(PAGE, 5.4), layout="constrained", sharex=True)
        for letter, (panel, name), ax in zip("abcd", PANEL_NAMES.items(), axes.flat, strict=True):
            _panel(ax, curves[curves["panel"] == panel], areas[areas["panel"] == panel])
            better = "larger" if LARGER_IS_BETTER[panel] else "smaller"
            ax.set_title(f"({letter}) {name}: {better} AUC is better", loc="left")
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy (%)")
        for ax in axes[1]:
            ax.set_xlabel("removed share of tokens")
    return figure


def _panel(ax: Axes, curves: pd.DataFrame, areas: pd.DataFrame) -> None:
    value = dict(zip(areas["method"], areas["value"], strict=True))
    labels = {method: f"{method_name(method)}: {area:.1f}" for method, area in value.items()}
    draw_curves(ax, curves, method_styles(curves["method"]), labels)
    ax.legend(  # beside the panel: curves cross everywhere inside
        title="AUC", title_fontsize=6, alignment="left", frameon=False, handlelength=1.6,
        loc="upper left", bbox_to_anchor=(1.0, 1.03), borderaxespad=0.2,
    )  # fmt: skip


def draw_curves(
    ax: Axes,
    curves: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str] | None = None,
) -> None:
    """Accuracy against the removed share with its interval, one curve per method of one panel of a `curve_frame`.

    Args:
        styles: method -> look; those without a curve are passed over.
        labels: method -> its entry in a legend, by default its printed name.
    """
    for method, style in styles.items():
        mine = curves[curves["method"] == method]
        if mine.empty:
            continue
        label = method_name(method) if labels is None else labels[method]
        ax.plot(mine["removed"], mine["accuracy"], label=label, zorder=3, **style)
        if mine["ci_low"].notna().all():
            ax.fill_between(
                mine["removed"], mine["ci_low"], mine["ci_high"], color=style["color"], alpha=0.1, lw=0, zorder=1
            )
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(alpha=0.25, linewidth=0.4)


def write_perturbation(run: Run, folder: Path) -> list[Path]:
    """Write `figure6.png`, `.pdf` and `.csv`."""
    paths = save(draw_perturbation(run), folder / "figure6")
    return [*paths, atomic_write(folder / "figure6.csv", curve_frame(run).to_csv(index=False, lineterminator="\n"))]


def sweep_frame(run: Run, metric: str = "AP") -> pd.DataFrame:
    """Scales as rows, methods as columns, percent.

    Raises:
        DataError: if the run has none.
    """
    frame = run.frame[(run.frame["metric"] == metric) & run.frame["threshold"].notna()]
    if frame.empty:
        raise DataError(
            f"{run.folder / 'results.csv'} holds no {metric} at any threshold: run "
            f"`{experiment_command('threshold_sweep')}`"
        )
    table = frame.pivot_table(index="threshold", columns="method", values="value", aggfunc="last")
    return table[in_order(set(table.columns))]


def crossings(table: pd.DataFrame) -> list[tuple[float, str, str]]:
    """Where two methods change places: (scale by linear interpolation, the one that falls behind, the new leader)."""
    found = []
    scales = table.index.to_numpy(dtype=float)
    methods = list(table.columns)
    for i, one in enumerate(methods):
        for other in methods[i + 1 :]:
            gap = (table[one] - table[other]).to_numpy(dtype=float)
            for s in range(len(scales) - 1):
                if gap[s] * gap[s + 1] < 0:
                    at = scales[s] + (scales[s + 1] - scales[s]) * gap[s] / (gap[s] - gap[s + 1])
                    ahead, behind = (one, other) if gap[s + 1] > 0 else (other, one)
                    found.append((float(at), behind, ahead))
    return sorted(found)


def draw_sweep(run: Run) -> Figure:
    """AP against the Otsu scale, one curve per method; a ring where two methods change places."""
    table = sweep_frame(run)
    with styled():
        figure, ax = plt.subplots(figsize=(PAGE * 0.72, 3.2), layout="constrained")
        for method, style in method_styles(table.columns).items():
            ax.plot(table.index, table[method], label=method_name(method), **style)
        rings = [(at, np.interp(at, table.index, table[behind])) for at, behind, _ in crossings(table)]
        if rings:
            (marks,) = ax.plot(*zip(*rings, strict=True), "o", label="two methods change places", markersize=7)
            marks.set(markerfacecolor="none", markeredgecolor="#444444", markeredgewidth=0.6)
        ax.set_xlabel("threshold, in multiples of Otsu's")
        ax.set_ylabel("AP (%)")
        ax.grid(alpha=0.25, linewidth=0.4)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False)
    return figure


def write_sweep(run: Run, folder: Path) -> list[Path]:
    """Write `threshold_sweep.png`, `.pdf` and `.csv`."""
    paths = save(draw_sweep(run), folder / "threshold_sweep")
    return [*paths, atomic_write(folder / "threshold_sweep.csv", sweep_frame(run).to_csv(lineterminator="\n"))]
