"""The leaderboard as tables: quality with intervals, passes, time and memory, and which method for which budget."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pandas as pd

from hetexp.evaluation.bootstrap import Estimate
from hetexp.files import atomic_write
from hetexp.reporting.board import BEST, EXPERIMENT, NO_COSTS, Board, Column, read_board
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE, decided_best
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.evidence.ledger import read_ledger
from hetexp.reporting.evidence.measurements import ITEMS, Measurements
from hetexp.reporting.latex import table
from hetexp.reporting.names import first_control, in_order, is_control, method_name, model_name
from hetexp.reporting.runs import read_run


def shown(board: Board, model: str, items: str) -> pd.DataFrame:
    """One part of the board as texts: methods as rows; measures with intervals, then passes."""
    part = board.values[(board.values["model"] == model) & (board.values["items"] == items)]
    cells = {(str(r.method), str(r.metric)): r for r in part.itertuples()}
    rows: dict[str, dict[str, str]] = {}
    for method in in_order({method for method, _ in cells}):
        row = rows.setdefault(method, {})
        for column in board.columns(model):
            cell = cells.get((method, column.key))
            text = "" if cell is None else with_interval(cell.value, cell.ci_low, cell.ci_high)
            if text and cell is not None and column.metric == BEST:
                text += f" at {cell.scale:g}"
            row[f"{column.heading} {'↑' if column.more else '↓'}"] = text or "n/a"
        cost = board.cost(model, method)
        for what in ("forward", "backward"):
            row[f"{what} passes"] = "n/a" if cost is None or pd.isna(cost[what]) else f"{cost[what]:.0f}"
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.Index([method_name(m) for m in rows], name="method")
    return frame


def timed(board: Board) -> pd.DataFrame:
    """Seconds and memory of one explanation of every method, as multiples of a forward pass; models as columns."""
    rows: dict[str, dict[str, str]] = {}
    measured = board.costs[board.costs["refused"].isna()]
    for method in in_order(set(measured["method"])):
        for model in board.about:
            cost = board.cost(model, method)
            known = cost is not None and pd.isna(cost["refused"])
            for what, name in (("seconds_ratio", "time"), ("memory_ratio", "memory")):
                text = f"{cost[what]:.1f}" if known and cost is not None else "n/a"
                rows.setdefault(method, {})[f"{model}, {name}"] = text
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.Index([method_name(m) for m in rows], name="method")
    return frame


def costs_page(board: Board) -> str:
    """The table of times and memory as Markdown, or that none were measured."""
    times = timed(board)
    if times.empty:
        return f"{NO_COSTS.capitalize()}.\n"
    note = "Time and memory of one explanation, in multiples of one forward pass of the same model on the same input."
    return f"{note}\n\n{times.to_markdown(disable_numparse=True)}\n"


def refusals(board: Board) -> list[str]:
    """Which methods do not apply to which models, and why."""
    refused = board.costs[board.costs["refused"].notna()]
    return [
        f"{method_name(str(r.method))} is not in the rows of {r.model}: {r.refused}."
        for r in sorted(refused.itertuples(), key=lambda r: (str(r.model), str(r.method)))
    ]


BUDGETS = {2: "a forward and a backward pass", 4: "four passes", 10**9: "any number of passes"}


def advice(board: Board) -> list[str]:
    """One sentence per model: the best method within each budget of passes; a larger one must gain a point.

    The measure is that of the figure, over the largest part of the items.
    """
    lines = []
    for model in board.about:
        column = board.quality(model)
        if column is None:
            continue
        items = next(part for of, part in board.parts() if of == model)
        quality = board.of(model, items)[column.key].dropna()
        quality = quality[[m for m in quality.index if not is_control(str(m))]]
        costs = board.costs[board.costs["model"] == model].set_index("method")
        passes = (costs["forward"] + costs["backward"]).reindex(quality.index)
        best = float("-inf")
        parts: list[str] = []
        for budget, words in BUDGETS.items():
            within = quality[passes <= budget]
            if len(within) and within.max() > best + (1 if parts else 0):
                best = float(within.max())
                parts.append(f"{method_name(str(within.idxmax()))} ({best:.1f}) for {words}")
        if parts:
            what = f"{model_name(model)}, by {column.heading}"
            lines.append(f"{what}: {'; '.join(parts)}; a larger budget gains less than a point.")
    return lines


def to_markdown(board: Board) -> str:
    """Every part of the board, and what does not apply."""
    parts = [
        "Leaderboard: all methods on all trained models, percent with 95 % intervals over images; ↑ larger is better, "
        "↓ smaller is better. Passes are those of one explanation. Controls stand last."
    ]
    for model, items in board.parts():
        what = "all items" if items == "all" else f"the {items} items"
        parts.append(f"**{model_name(model)}**, {board.about[model]}, {what}:")
        parts.append(shown(board, model, items).to_markdown(disable_numparse=True))
    advised, lines = advice(board), refusals(board)
    if advised:
        parts += ["Which method for which budget, among those measured on most items:"]
        parts += ["\n".join(f"- {line}" for line in advised)]
    parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    return "\n\n".join([*parts, f"Made by `{experiment_command(EXPERIMENT)}`."]) + "\n"


def best_cells(board: Board, model: str, items: str) -> set[tuple[int, int]]:
    """Rows and columns of `shown` whose method is decidedly the best of its column."""
    part = board.values[(board.values["model"] == model) & (board.values["items"] == items)]
    order = in_order(set(part["method"]))
    found = set()
    for place, column in enumerate(board.columns(model)):
        rows = part[part["metric"] == column.key].drop_duplicates("method", keep="last").set_index("method")
        if not all((Path(folder) / ITEMS).is_dir() for folder in rows["folder"]):
            continue

        def estimate(method: str, column: Column = column, rows: pd.DataFrame = rows) -> Estimate:
            row = rows.loc[method]
            run = _measurements(Path(row["folder"]))
            at = None if pd.isna(row["scale"]) else float(row["scale"])
            return run.estimate(method, column.panel, "AP" if column.metric == BEST else column.metric, at)

        best = decided_best(rows["value"].to_dict(), estimate, smaller=not column.more)
        found |= {(order.index(best), place)} if best else set()
    return found


@lru_cache(maxsize=4)
def _measurements(folder: Path) -> Measurements:
    return Measurements(read_run(folder), read_ledger().resampling)


def to_latex(board: Board) -> str:
    """A table for every part of the board."""
    parts = []
    for model, items in board.parts():
        about = f"{model_name(model)}, {board.about[model]}"
        caption = f"Leaderboard of {about}, items: {items}. Percent with 95 % intervals. {NOTE}"
        frame, label = shown(board, model, items), f"leaderboard-{model}-{items.replace(' ', '-')}"
        of_part = board.values[(board.values["model"] == model) & (board.values["items"] == items)]
        rules = first_control(in_order(set(of_part["method"])))
        parts.append(table(frame, caption, label, bold=best_cells(board, model, items), rules=rules))
    return "\n".join(parts)


def write_table(outputs: Path, to: Path) -> tuple[list[Path], str]:
    """Write `leaderboard.csv` (tidy), `.md` and `.tex`; times and memory, which vary, as `leaderboard_costs.*`."""
    board = read_board(outputs)
    tidy = board.values.drop(columns=["n_items", "folder"]).round(4)
    text = to_markdown(board)
    return [
        atomic_write(to / "leaderboard.csv", tidy.to_csv(index=False, lineterminator="\n")),
        atomic_write(to / "leaderboard.md", text),
        atomic_write(to / "leaderboard.tex", to_latex(board)),
        atomic_write(to / "leaderboard_costs.csv", board.costs.to_csv(index=False, lineterminator="\n")),
        atomic_write(to / "leaderboard_costs.md", costs_page(board)),
    ], text
