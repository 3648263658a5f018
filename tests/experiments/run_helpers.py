"""Helpers of the run tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate

Compose = Callable[..., DictConfig]  # a configuration from overrides


def run_to(cfg: DictConfig, folder: Path) -> pd.DataFrame:
    """Run a configuration in a folder and read the table it wrote (empty for a shard)."""
    evaluate(open_session(cfg, folder))
    table = folder / "results.csv"
    return pd.read_csv(table) if table.exists() else pd.DataFrame()


def same_bytes(a: Path, b: Path) -> None:
    """Both runs must have written the same results, to the byte."""
    for name in ("results.csv", "results.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
