"""Result tables: one tidy schema for every experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hetexp.experiments.files import RESULTS, atomic_text

COLUMNS = [
    "experiment",
    "model",
    "checkpoint",
    "data",
    "method",
    "correction",
    "noise_link",
    "threshold",
    "panel",
    "metric",
    "value",
    "n",
    "ci_low",
    "ci_high",
]


def results_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a tidy table with every column in its place; absent values stay empty."""
    frame = pd.DataFrame(list(rows))
    for column in COLUMNS:
        if column not in frame:
            frame[column] = None
    return frame[COLUMNS]


def write_results(folder: Path, frame: pd.DataFrame) -> None:
    """Write `results.csv` and `results.md` whole or not at all; values keep full precision in the CSV."""
    atomic_text(folder / RESULTS, frame.to_csv(index=False, lineterminator="\n"))
    shown = frame.drop(columns=[c for c in frame if frame[c].isna().all() or (frame[c] == "").all()])
    atomic_text(folder / "results.md", shown.to_markdown(index=False, floatfmt=".4f", missingval="") + "\n")


def write_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `run.json`: times, versions, machine facts and counts of skips, which are no results."""
    atomic_text(folder / "run.json", json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n")
