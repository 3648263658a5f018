"""Result tables: one tidy schema for every experiment."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from hetexp.files import atomic_write

if TYPE_CHECKING:
    from hetexp.experiments.engine.items import Named
    from hetexp.experiments.engine.session import Session

RESULTS = "results.csv"
SHARD_MANIFEST = "shard.json"


@dataclass(frozen=True)
class Result:
    """One number of a run; what it belongs to besides is the run's.

    Attributes:
        spec: the method or control; None for the model's own.
        panel: which part of the experiment.
        metric: what was measured.
        value: None where the data has no such thing.
        n: items behind it.
        threshold: multiple of the strategy's threshold, where there is one.
        ci_low: lower end of its interval.
        ci_high: upper end of its interval.
    """

    spec: Named | None
    panel: str
    metric: str
    value: float | None
    n: int
    threshold: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


COLUMNS = [
    "experiment",
    "model",
    "checkpoint",
    "data",
    "method",
    "correction",
    "noise_link",
    "threshold",
    "strategy",
    "panel",
    "metric",
    "value",
    "n",
    "ci_low",
    "ci_high",
]


def tidy(session: Session, results: Iterable[Result]) -> pd.DataFrame:
    """A run's results as the table that `results.csv` holds."""
    of_run = {
        "experiment": session.cfg.experiment or "",
        "model": session.adapter.name,
        "checkpoint": session.checkpoint,
        "data": session.cfg.data.name,
    }
    return results_frame(
        {
            **of_run,
            "method": r.spec.name if r.spec else "",
            "correction": r.spec.parameter("correction") if r.spec else "",
            "noise_link": r.spec.parameter("noise_link") if r.spec else "",
            "strategy": "" if r.threshold is None else session.strategy.name,
            **{key: value for key, value in vars(r).items() if key != "spec"},
        }
        for r in results
    )


def results_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a tidy table with every column in its place; absent values stay empty."""
    frame = pd.DataFrame(list(rows))
    for column in COLUMNS:
        if column not in frame:
            frame[column] = None
    return frame[COLUMNS]


def write_results(folder: Path, frame: pd.DataFrame) -> None:
    """Write `results.csv` and `results.md` whole or not at all; values keep full precision in the CSV."""
    atomic_write(folder / RESULTS, frame.to_csv(index=False, lineterminator="\n"))
    shown = frame.drop(columns=[c for c in frame if frame[c].isna().all() or (frame[c] == "").all()])
    shown = shown.astype(object).where(shown.notna(), None)  # what is absent is printed as nothing, not as "nan"
    atomic_write(folder / "results.md", shown.to_markdown(index=False, floatfmt=".4f", missingval="") + "\n")


def show(frame: pd.DataFrame) -> None:
    """Print the main numbers, a method per row; curves and question types are in results.csv alone."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    main = frame[~frame["metric"].str.contains("@") & ~frame["panel"].str.contains("/")]
    for (threshold, strategy), part in main.groupby(["threshold", "strategy"], dropna=False, sort=False):
        columns = list(dict.fromkeys(zip(part["panel"], part["metric"], strict=True)))
        values = {(r.method, r.panel, r.metric): r.value for r in part.itertuples()}
        table = Table(title=None if pd.isna(threshold) else f"threshold {strategy}, scale {threshold:g}")
        table.add_column("method", no_wrap=True)
        for panel, metric in columns:
            table.add_column(f"{panel.replace('_', ' ')}\n{metric}".strip(), justify="right")
        for method in dict.fromkeys(part["method"]):
            cells = [values.get((method, *column)) for column in columns]
            table.add_row(method or "model", *("" if pd.isna(v) else f"{v:.1f}" for v in cells))
        console.print(table)
