"""The leaderboard: every method on every model, how good and how dear, from all runs that belong to it.

A run belongs to it if its experiment is one of `EXPERIMENTS`, or if it has none and runs on the same items: so
`hetexp task=evaluate method=mine limit=200` adds a row. Of a method's runs on the same items the newest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetexp.paths import files_named
from hetexp.reporting.commands import MissingInput, experiment_command
from hetexp.reporting.names import in_order
from hetexp.reporting.runs import SEARCHED, other_strategies, read_run

EXPERIMENT = "leaderboard"
EXPERIMENTS = (EXPERIMENT, "leaderboard_passes")
COSTS = "costs.csv"
SCALES = (1.0, 0.3)  # of Tables 1 and 2
BEST = "AP at the best scale"
NO_COSTS = "no run of the leaderboard measured costs: run it with costs=5"
# What is read of costs.csv, besides the method, with types that hold where nothing was measured.
COST_TYPES = {
    "model": "str",
    "method": "str",
    "refused": "object",
    **dict.fromkeys(("forward", "backward", "seconds_ratio", "memory_ratio"), "float64"),
}


@dataclass(frozen=True)
class Column:
    """One measure: where it stands in results.csv, its heading, and whether more is better."""

    panel: str
    metric: str
    heading: str
    more: bool = True
    scale: float | None = None

    @property
    def key(self) -> str:
        """Its name in leaderboard.csv."""
        return f"{self.panel}/{self.metric}" + ("" if self.scale is None else f"@{self.scale:g}")


DETECTION = (
    Column("ground_truth", "AUPRC", "AUPRC"),
    Column("ground_truth", "pointing_game", "Pointing"),
    Column("ground_truth", "energy_target", "Mass on target"),
    *(Column("segm", "AP", f"AP, {scale:g} × Otsu", scale=scale) for scale in SCALES),
    Column("segm", BEST, "AP, best scale"),
)
QUESTIONS = (
    Column("image_positive", "AUC", "Positive, image", more=False),
    Column("image_negative", "AUC", "Negative, image"),
    Column("text_positive", "AUC", "Positive, text", more=False),
    Column("text_negative", "AUC", "Negative, text"),
    Column("localisation", "word_auroc", "Deciding words (AUROC)"),
    Column("localisation", "region_auroc", "Deciding regions (AUROC)"),
    Column("localisation", "pointing_game", "Pointing"),
    Column("localisation", "relevance_mass_accuracy", "Mass on target"),
)
COLUMNS = (*DETECTION, *QUESTIONS)
QUALITY = (DETECTION[0], QUESTIONS[4])  # what the figure shows, the first that a model has


@dataclass(frozen=True)
class Board:
    """Everything the leaderboard shows.

    Attributes:
        values: tidy: model, items ("all" or their number), method, metric, value, ci_low, ci_high, n, scale, folder of
            the run.
        costs: model, items, method, and what costs.csv says.
        about: model -> checkpoint and data.
    """

    values: pd.DataFrame
    costs: pd.DataFrame
    about: Mapping[str, str]

    def parts(self) -> list[tuple[str, str]]:
        """Pairs of model and items, the largest part of each model first."""
        found = self.values[["model", "items", "n_items"]].drop_duplicates()
        models = list(self.about)
        order = sorted(found.itertuples(), key=lambda r: (models.index(r.model), -r.n_items))
        return list(dict.fromkeys((str(r.model), str(r.items)) for r in order))

    def columns(self, model: str) -> list[Column]:
        """The measures that a model has."""
        known = set(self.values.loc[self.values["model"] == model, "metric"])
        return [column for column in COLUMNS if column.key in known]

    def quality(self, model: str) -> Column | None:
        """The measure that methods are compared by on a model; None if it has none of `QUALITY`."""
        known = self.columns(model)
        return next((column for column in QUALITY if column in known), None)

    def of(self, model: str, items: str) -> pd.DataFrame:
        """Methods as rows, measures as columns: numbers."""
        part = self.values[(self.values["model"] == model) & (self.values["items"] == items)]
        wide = part.pivot_table(index="method", columns="metric", values="value", aggfunc="last")
        return wide.reindex(in_order(set(wide.index)))

    def cost(self, model: str, method: str) -> pd.Series | None:
        """What costs.csv says of a method; None where it was not measured."""
        found = self.costs[(self.costs["model"] == model) & (self.costs["method"] == method)]
        return None if found.empty else found.iloc[-1]


def read_board(outputs: Path) -> Board:
    """Collect the runs below a folder.

    Raises:
        MissingInput: if no run of the leaderboard is there; the message names the command.
    """
    runs, costs = [], []
    paths = [p for name in SEARCHED for p in files_named("results.csv", outputs / name)]
    paths = [p for p in paths if not (p.parent / "multirun.yaml").is_file()]
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, str(p))):
        run = read_run(path)
        experiments = set(run.frame["experiment"].fillna(""))
        if not experiments <= {*EXPERIMENTS, ""} or other_strategies(run.frame):  # its columns say Otsu
            continue
        limit = run.config.get("limit")
        frame = run.frame.assign(
            experiment=run.frame["experiment"].fillna(""),
            folder=str(path.parent),
            items="all" if limit is None else f"first {limit}",
            n_items=float("inf") if limit is None else float(limit),
        )
        runs.append(frame[frame["method"].notna()])
        if (path.parent / COSTS).is_file():
            costs.append(pd.read_csv(path.parent / COSTS))
    if not any((frame["experiment"] == EXPERIMENT).any() for frame in runs):
        command = experiment_command(EXPERIMENT)
        raise MissingInput(f"no finished run of {EXPERIMENT} below {outputs}: make one with `{command}`")
    frame = pd.concat(runs, ignore_index=True)
    keys = ["model", "checkpoint", "data"]
    newest = frame[frame["experiment"] == EXPERIMENT].groupby("model", sort=False)[keys].tail(1).sort_values("model")
    frame = frame.merge(newest, on=keys)  # other checkpoints and data are not comparable
    compared = frame.loc[frame["experiment"] != "", ["model", "items"]].drop_duplicates()
    frame = frame.merge(compared, on=["model", "items"])
    if costs:
        found = pd.concat(costs, ignore_index=True).merge(newest, on=keys)
    else:
        found = pd.DataFrame(columns=list(COST_TYPES)).astype(COST_TYPES)
    about = {str(r.model): f"checkpoint {r.checkpoint} on {r.data}" for r in newest.itertuples()}
    return Board(_measures(frame), found.drop_duplicates(["model", "method"], keep="last"), about)


def _measures(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of results.csv that are shown, the newest of each; with AP at every method's best scale."""
    about = ["model", "items", "n_items", "method"]
    frame = frame.drop_duplicates([*about, "panel", "metric", "threshold"], keep="last")
    parts = []
    for column in COLUMNS:
        rows = frame[frame["panel"] == column.panel]
        if column.metric == BEST:
            rows = rows[(rows["metric"] == "AP") & rows["value"].notna()]
            rows = rows.loc[rows.groupby(about, sort=False)["value"].idxmax()]
        else:
            rows = rows[rows["metric"] == column.metric]
        if column.scale is not None:
            rows = rows[(rows["threshold"] - column.scale).abs() < 1e-9]
        parts.append(rows.assign(metric=column.key, scale=rows["threshold"]))
    return pd.concat(parts, ignore_index=True)[[*about, "metric", "value", "ci_low", "ci_high", "n", "scale", "folder"]]


def frontier(quality: pd.Series, cost: pd.Series, margin: float = 1.0) -> list[str]:
    """Methods better than all that are as cheap, cheapest first; a dearer one must be better by `margin` points."""
    order = pd.DataFrame({"quality": quality, "cost": cost}).dropna()
    best = float("-inf")
    out: list[str] = []
    for row in order.sort_values(["cost", "quality"], ascending=[True, False]).itertuples():
        if row.quality > best + (margin if out else 0):
            best = row.quality
            out.append(str(row.Index))
    return out
