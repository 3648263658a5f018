"""Finished runs as they lie on disk, with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from hetexp.reporting.names import PANEL_NAMES, PAPER_METHODS
from hetexp.reporting.published import METRICS, TABLES

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
BASE = {"model": "detr", "checkpoint": "detr@0123456789ab", "data": "scenes", "n": 300}


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A run folder with these results."""
    folder.mkdir(parents=True)
    columns = ["experiment", "model", "checkpoint", "data", "method", "correction", "noise_link", "threshold"]
    columns += ["panel", "metric", "value", "n", "ci_low", "ci_high"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "results.csv", index=False)
    (folder / "config.yaml").write_text("seed: 1234\nprofile:\n  name: embedded\n")
    (folder / "run.json").write_text(json.dumps({"seconds": 12.5, "versions": {"torch": "2.13.0"}}))
    return folder


def table_rows(number: int, change: Callable[[str, str, float], float | None] | None = None) -> list[dict[str, Any]]:
    """The paper's own numbers as if measured, each passed through `change(metric, method, value)`."""
    table = TABLES[number]
    rows = []
    for metric in METRICS:
        for method in PAPER_METHODS:
            value = table.value(metric, method)
            rows.append(
                {
                    **BASE,
                    "experiment": table.experiment,
                    "method": method,
                    "threshold": table.scale,
                    "panel": "segm",
                    "metric": metric,
                    "value": value if change is None else change(metric, method, value),
                }
            )
    return rows


def perturbation_rows(methods: dict[str, float]) -> list[dict[str, Any]]:
    """Figure 6's results: AUC of each method in every panel, with an interval of one point to either side."""
    base = {
        **BASE,
        "experiment": "figure6",
        "model": "lxmert",
        "checkpoint": "lxmert@ba9876543210",
        "data": "questions",
    }
    rows: list[dict[str, Any]] = [
        {**base, "panel": "", "metric": "accuracy", "value": 95.0, "ci_low": 94.0, "ci_high": 96.0}
    ]
    for method, auc in methods.items():
        for panel in PANEL_NAMES:
            mine = {**base, "method": method, "panel": panel}
            rows.append({**mine, "metric": "AUC", "value": auc, "ci_low": auc - 1, "ci_high": auc + 1})
            for f in FRACTIONS:
                rows.append({**mine, "metric": f"accuracy@{f:g}", "value": 95 - f * (95 - auc), "n": 2000})
    return rows
