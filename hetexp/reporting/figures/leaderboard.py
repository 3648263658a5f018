"""Quality against cost, a panel per model: which methods are not beaten at their price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hetexp.reporting.board import NO_COSTS, QUALITY, Board, Column, frontier, read_board
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import is_control, method_name, model_name

NAMED = 5.0  # points below the best of the line within which its methods are named


def points(board: Board, model: str) -> tuple[Column, pd.DataFrame]:
    """The measure of quality of a model, and per method quality, its interval and cost; `subset` where it was measured
    on fewer items than the rest.

    Raises:
        MissingInput: if the model has no measure of quality.
    """
    column = board.quality(model)
    if column is None:
        raise MissingInput(_no_quality(model))
    rows = board.values[(board.values["model"] == model) & (board.values["metric"] == column.key)]
    rows = rows.sort_values("n_items").drop_duplicates("method", keep="last").set_index("method")
    costs = board.costs[board.costs["model"] == model].set_index("method")["seconds_ratio"]
    found = rows[["value", "ci_low", "ci_high"]].assign(
        cost=costs.reindex(rows.index), subset=rows["n_items"] < rows["n_items"].max()
    )
    return column, found.dropna(subset=["cost"])


def draw_leaderboard(board: Board) -> Figure:
    """Cost on a logarithmic axis; the line joins the methods that nothing as cheap beats, and the corner names the best
    of them. Faint points were measured on fewer items.

    Raises:
        MissingInput: if no costs were measured, or no model's quality.
    """
    if board.costs.empty:
        raise MissingInput(NO_COSTS)
    models = [model for model in board.about if board.quality(model) is not None]
    if not models:
        raise MissingInput(_no_quality(" or ".join(board.about)))
    methods = dict.fromkeys(m for model in models for m in points(board, model)[1].index)
    styles = {m: {k: v for k, v in s.items() if k != "linestyle"} for m, s in method_styles(methods).items()}
    for style in styles.values():
        style["marker"] = style["marker"] or "."
    with styled():
        figure, axes = plt.subplots(
            (len(models) + 1) // 2,
            2,
            figsize=(PAGE, 2.5 * ((len(models) + 1) // 2)),
            layout="constrained",
            squeeze=False,
        )
        for ax, model in zip(axes.flat, models, strict=False):
            _panel(ax, board, model, styles)
        for ax in axes.flat[len(models) :]:
            ax.set_axis_off()
        handles = [
            plt.Line2D([], [], **styles[m], linestyle="none", label=method_name(m), markersize=4) for m in styles
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _no_quality(model: str) -> str:
    wanted = " or ".join(column.heading for column in QUALITY)
    return f"no run of the leaderboard measured {wanted} of {model}: run it without metrics="


def _panel(ax: Axes, board: Board, model: str, styles: dict[str, dict[str, Any]]) -> None:
    column, found = points(board, model)
    whole = found[~found["subset"]]
    best = [m for m in frontier(whole["value"], whole["cost"]) if not is_control(m)]
    for method, row in found.iterrows():
        style = styles[str(method)]
        if pd.notna(row["ci_low"]):
            ax.plot(
                [row["cost"]] * 2, [row["ci_low"], row["ci_high"]], color=style["color"], lw=0.6, alpha=0.6, zorder=2
            )
        ax.plot(row["cost"], row["value"], **style, ls="none", ms=4.5, zorder=3, alpha=0.55 if row["subset"] else 1.0)
    line = found.loc[best]
    ax.step(line["cost"], line["value"], where="post", color="#888888", lw=0.8, zorder=1)
    good = [m for m in best if found.loc[m, "value"] > line["value"].max() - NAMED]
    for place, method in enumerate(good):
        ax.text(  # in the free corner, where no name hides a point
            0.98,
            0.04 + 0.08 * (len(good) - 1 - place),
            method_name(method),
            transform=ax.transAxes,
            ha="right",
            fontsize=5.5,
            color=styles[method]["color"],
        )
    ax.set_xscale("log")
    wide = found["cost"].max() > 30 * found["cost"].min()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    ax.xaxis.set_major_formatter(lambda cost, _: f"{cost:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title(model_name(model), loc="left")
    ax.set_xlabel("time of one explanation, in forward passes")
    ax.set_ylabel(f"{column.heading} (%)")
    ax.grid(alpha=0.25, linewidth=0.4)


def write_leaderboard(outputs: Path, to: Path) -> list[Path]:
    """Write `leaderboard.png` and `.pdf`."""
    return save(draw_leaderboard(read_board(outputs)), to / "leaderboard")
