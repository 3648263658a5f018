"""Figures drawn from results tables: perturbation curves (Figure 6) and AP against the Otsu scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
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
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import PANEL_NAMES, in_order, method_name
from hetexp.reporting.perturbation import LARGER_IS_BETTER, auc_rows, normalised
from hetexp.reporting.published import TABLES
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
    """Figure 6: four panels, accuracy against the removed fraction, and one legend with every curve's AUC.

    A panel whose curves crowd at the right end shows it enlarged in an inset, where there is room below the curves.
    """
    curves = curve_frame(run)
    styles = method_styles(curves["method"])
    numbers = legend_cells(run, list(styles))
    with styled():
        height = 4.1 + LINE * (len(numbers) + 1)
        figure = plt.figure(figsize=(PAGE, height), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=[4.1, height - 4.1], squeeze=False).flat
        axes = above.subplots(2, 2, sharex=True, sharey=True)
        for letter, (panel, name), ax in zip("abcd", PANEL_NAMES.items(), axes.flat, strict=True):
            draw_curves(ax, curves[curves["panel"] == panel], styles)
            better = "larger" if LARGER_IS_BETTER[panel] else "smaller"
            ax.set_title(f"({letter}) {name}: {better} AUC is better", loc="left")
        for panel, ax in zip(PANEL_NAMES, axes.flat, strict=True):  # now that all curves have set the common range
            magnify(ax, curves[curves["panel"] == panel], styles)
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy (%)")
        for ax in axes[1]:
            ax.set_xlabel("removed share of tokens")
        _legend(below.subplots(), styles, numbers)
    return figure


LINE = 0.145  # inches of a line of the legend
END = (0.74, 0.91)  # removed shares whose steps stand close


def magnify(ax: Axes, curves: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]], left: float = 0.08) -> None:
    """The right end of a panel in an inset below its curves, if these leave at least half of its height free there.

    Args:
        ax: the panel, which has its final range.
        curves: of a `curve_frame`, this panel's.
        styles: as for `draw_curves`.
        left: where the inset starts, as a share of the panel's width.
    """
    right = left + 0.58
    low, high = ax.get_ylim()
    lowest = [curves.loc[curves["removed"] <= right, "accuracy"].min()]
    lowest += [np.interp(right, own["removed"], own["accuracy"]) for _, own in curves.groupby("method")]
    room = (min(lowest) - low) / (high - low)
    if not room >= 0.5:
        return
    inset = ax.inset_axes((left, 0.1, right - left, min(room - 0.14, 0.6)))
    draw_curves(inset, curves, styles)
    shown = curves.loc[curves["removed"].between(*END), "accuracy"]
    inset.set(xlim=END, ylim=(shown.min() - 2, shown.max() + 2), xticks=[0.75, 0.8, 0.85, 0.9])
    inset.tick_params(labelsize=5.5, length=2, pad=1.5)
    for spine in inset.spines.values():
        spine.set(visible=True, linewidth=0.5, color="#777777")
    ax.indicate_inset_zoom(inset, edgecolor="#777777", linewidth=0.6, alpha=1.0)


def legend_cells(run: Run, methods: Sequence[str]) -> dict[str, list[str]]:
    """Method -> per panel its AUC with its interval; behind a bar what it is of the oracle's, where that is known."""
    areas = {(str(r.method), str(r.panel)): r for r in auc_rows(run).itertuples()}
    shares = normalised(run)
    rows: dict[str, list[str]] = {}
    for method in methods:
        for panel in PANEL_NAMES:
            area, share = areas.get((method, panel)), shares.get((method, panel))
            text = "" if area is None else with_interval(area.value, area.ci_low, area.ci_high)
            text += f" | {round(share[0])}".replace("-", "−") if text and share else ""
            rows.setdefault(method, []).append(text or "n/a")
    return rows


def _legend(ax: Axes, styles: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, Sequence[str]]) -> None:
    """The one legend: a line per curve, with its numbers panel by panel."""
    ax.set(xlim=(0, 1), ylim=(len(numbers) + 0.5, -0.6))
    ax.axis("off")
    places = [0.24 + 0.19 * i for i in range(len(PANEL_NAMES))]
    between = any("|" in cell for cells in numbers.values() for cell in cells)
    heading = "AUC [95 %] | % of the oracle's" if between else "AUC [95 %]"
    ax.text(0.0, 0, heading, fontsize=6.5, va="center")
    for letter, x in zip("abcd", places, strict=True):
        ax.text(x, 0, f"({letter})", fontsize=6.5, va="center")
    for row, (method, cells) in enumerate(numbers.items(), 1):
        ax.plot([0.0, 0.02, 0.04], [row] * 3, markevery=[1], **styles[method])
        ax.text(0.05, row, method_name(method), fontsize=6.5, va="center")
        for x, cell in zip(places, cells, strict=True):
            ax.text(x, row, cell, fontsize=6.5, va="center")


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


def sweep_frame(run: Run, metric: str = "AP", what: str = "value") -> pd.DataFrame:
    """Scales as rows, methods as columns, percent.

    Args:
        run: of several thresholds.
        metric: of results.csv.
        what: "value", or an end of its interval, "ci_low" or "ci_high".

    Raises:
        DataError: if the run has none.
    """
    frame = run.frame[(run.frame["metric"] == metric) & run.frame["threshold"].notna()]
    if frame.empty:
        raise DataError(
            f"{run.folder / 'results.csv'} holds no {metric} at any threshold: run "
            f"`{experiment_command('threshold_sweep')}`"
        )
    table = frame.pivot_table(index="threshold", columns="method", values=what, aggfunc="last", dropna=False)
    return table[in_order(set(table.columns))]


def crossings(table: pd.DataFrame) -> list[tuple[float, str, str]]:
    """Where two methods change places: (scale by linear interpolation, the one that falls behind, the new leader)."""
    found = []
    scales = table.index.to_numpy(dtype=float)
    methods = list(table.columns)
    for i, one in enumerate(methods):
        for other in methods[i + 1 :]:
            gap = (table[one] - table[other]).to_numpy(dtype=float)
            apart = [s for s in range(len(scales)) if np.isfinite(gap[s]) and gap[s] != 0]
            for s, t in pairwise(apart):
                if gap[s] * gap[t] < 0:  # with scales between them the two are level there
                    between = scales[s] + (scales[t] - scales[s]) * gap[s] / (gap[s] - gap[t])
                    at = between if t == s + 1 else scales[s + 1 : t].mean()
                    ahead, behind = (one, other) if gap[t] > 0 else (other, one)
                    found.append((float(at), behind, ahead))
    return sorted(found)


def draw_sweep(run: Run) -> Figure:
    """AP against the Otsu scale, one curve per method: at large with intervals, and where methods change places.

    Rings mark these scales, numbered as in the list below; lines mark the scales of the paper's tables.
    """
    table = sweep_frame(run)
    found = crossings(table)
    styles = method_styles(table.columns)
    ends = [sweep_frame(run, what=end) for end in ("ci_low", "ci_high")]
    below = LINE * (max(len(styles), len(found)) + 1)
    with styled():
        figure = plt.figure(figsize=(PAGE, 2.9 + below), layout="constrained")
        above, beneath = figure.subfigures(2, 1, height_ratios=[2.9, below], squeeze=False).flat
        axes = above.subplots(1, 2 if found else 1, squeeze=False)[0]
        for method, style in styles.items():
            for ax in axes:
                ax.plot(table.index, table[method], label=method_name(method), zorder=3, **style)
            axes[0].fill_between(table.index, *(end[method] for end in ends), color=style["color"], alpha=0.12, lw=0)
        for ax in axes:
            ax.set_xlabel("threshold, in multiples of Otsu's")
            ax.grid(alpha=0.25, linewidth=0.4)
        axes[0].set(ylabel="AP (%)", ylim=(0, None))
        heights = [float(np.interp(at, table.index, table[behind])) for at, behind, _ in found]
        if found:
            low, high = found[0][0] - 0.1, found[-1][0] + 0.1
            top = float(table[(table.index >= low) & (table.index <= high)].max().max())
            axes[1].set(xlim=(low, high), ylim=(min(heights) - 1.5, max(top, *heights) + 1))
            axes[0].set_title("(a) all scales, with 95 % intervals", loc="left", pad=12)
            axes[1].set_title("(b) where methods change places", loc="left", pad=12)
        for ax in axes:
            _mark_tables(ax)
        for number, ((at, _, _), height) in enumerate(zip(found, heights, strict=True), 1):
            axes[0].plot(at, height, "o", ms=5, mfc="none", mec="#444444", mew=0.6, zorder=4)
            axes[1].plot(at, height, "o", ms=7, mfc="none", mec="black", mew=0.8, zorder=4)
            side = (0, 7) if number % 2 else (0, -13)
            axes[1].annotate(
                str(number), (at, height), side, textcoords="offset points", ha="center", fontsize=7, zorder=5
            )
        note = beneath.subplots()
        note.axis("off")
        note.legend(*axes[0].get_legend_handles_labels(), loc="upper left", frameon=False, borderaxespad=0)
        lines = [
            f"{number}: at {at:.2f} {method_name(ahead)} passes {method_name(behind)}"
            for number, (at, behind, ahead) in enumerate(found, 1)
        ]
        note.text(0.5, 1, "\n".join(lines), va="top", fontsize=6.5, linespacing=1.5, transform=note.transAxes)
    return figure


def _mark_tables(ax: Axes) -> None:
    """Lines at the scales of the paper's tables, those that the panel shows."""
    low, high = ax.get_xlim()
    for table in TABLES.values():
        if low <= table.scale <= high:
            ax.axvline(table.scale, color="#555555", linewidth=0.7, linestyle=(0, (4, 2)), zorder=2)
            label = f"Table {table.number} (× {table.scale:g})"
            ax.text(table.scale, 1.01, label, transform=ax.get_xaxis_transform(), ha="center", fontsize=6)


def write_sweep(run: Run, folder: Path) -> list[Path]:
    """Write `threshold_sweep.png`, `.pdf` and `.csv`."""
    paths = save(draw_sweep(run), folder / "threshold_sweep")
    return [*paths, atomic_write(folder / "threshold_sweep.csv", sweep_frame(run).to_csv(lineterminator="\n"))]
