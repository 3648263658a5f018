"""An outputs folder with finished runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from report_helpers import BASE, perturbation_rows, table_rows, write_items, write_run

from hetexp.reporting.names import PAPER_METHODS


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An outputs folder with one run of each experiment."""
    runs = tmp_path / "outputs" / "runs" / "2026-01-01"
    write_items(write_run(runs / "10-00-00_table1", table_rows(1)))
    write_items(write_run(runs / "10-05-00_table2", table_rows(2)))
    write_run(
        runs / "10-10-00_figure6",
        perturbation_rows({"gae": 60, "odam": 50, "ours_abs": 62, "ours_pos": 61, "ours_noised": 63, "random": 55}),
    )
    sweep = tmp_path / "outputs" / "sweeps" / "2026-01-01" / "10-20-00"
    rows = []
    for i, scale in enumerate((0.3, 0.6, 1.0)):
        for rank, method in enumerate(PAPER_METHODS):
            value = 10 + rank * (scale - 0.6)  # the ranking turns over at 0.6
            rows.append(
                {**BASE, "experiment": "threshold_sweep", "method": method, "threshold": scale}
                | {"panel": "segm", "metric": "AP", "value": value}
            )
        write_run(sweep / str(i), rows[-len(PAPER_METHODS) :])
    pd.DataFrame(rows).to_csv(sweep / "results.csv", index=False)
    (sweep / "multirun.yaml").write_text("{}")
    return tmp_path / "outputs"
