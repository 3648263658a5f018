"""Helpers of the run tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from hetexp.experiments.runner import evaluate
from hetexp.experiments.session import session_for


def run_to(cfg: DictConfig, folder: Path) -> pd.DataFrame:
    """Run a configuration in a folder and read the table it wrote (empty for a shard)."""
    evaluate(session_for(cfg, folder))
    table = folder / "results.csv"
    return pd.read_csv(table) if table.exists() else pd.DataFrame()


def same_bytes(a: Path, b: Path) -> None:
    """Both runs must have written the same results, to the byte."""
    for name in ("results.csv", "results.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
