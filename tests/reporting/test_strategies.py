"""Tables and figures are of Otsu's threshold: results by another strategy never stand among them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from report_helpers import table_rows, write_items, write_run

from hetexp.errors import DataError
from hetexp.reporting.products import make_tables
from hetexp.reporting.runs import newest_run


def by(strategy: str, folder: Path) -> Path:
    """A run of Table 1 by that strategy."""
    run = write_items(write_run(folder, table_rows(1)))
    frame = pd.read_csv(run / "results.csv")
    frame.assign(strategy=strategy).to_csv(run / "results.csv", index=False)
    return run


def test_runs_by_otsu_are_read_and_others_refused_by_name(tmp_path: Path) -> None:
    otsu = by("otsu", tmp_path / "runs" / "otsu")
    assert newest_run(tmp_path, "table1").folder == otsu
    (made,) = make_tables(tmp_path, ["table1"], results=otsu)
    assert made.source == otsu
    other = by("quantile(share=0.1)", tmp_path / "more" / "runs" / "quantile")
    said = r"were made by quantile\(share=0\.1\), and tables and figures compare masks at multiples of Otsu's threshold"
    with pytest.raises(DataError, match=said):
        newest_run(tmp_path / "more", "table1")
    with pytest.raises(DataError, match=said):
        make_tables(tmp_path, ["table1"], results=other)


def test_what_a_choice_names_may_be_by_any_strategy(tmp_path: Path) -> None:
    run = by("otsu", tmp_path / "runs" / "all")
    frame = pd.read_csv(run / "results.csv").assign(choice="as published")
    changed = frame.assign(choice="a tenth", strategy="quantile(share=0.1)")
    pd.concat([frame, changed]).to_csv(run / "results.csv", index=False)
    assert set(newest_run(tmp_path, "table1").frame["strategy"]) == {"otsu", "quantile(share=0.1)"}
    pd.concat([frame.assign(strategy="best_f"), changed]).to_csv(run / "results.csv", index=False)
    with pytest.raises(DataError, match="were made by best_f,"):
        newest_run(tmp_path, "table1")
