"""Hydra callback: join the results of a sweep's jobs into one table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hetexp.experiments.engine.results import RESULTS, SHARD_MANIFEST, results_frame, write_results

log = logging.getLogger("hetexp")


class CollateResults(Callback):
    """Writes `results.csv` and `results.md` of a whole sweep from what its jobs wrote."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the jobs' tables in job order; jobs without one (failed) are named."""
        folder = Path(config.hydra.sweep.dir)
        jobs = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        found = [p / RESULTS for p in jobs if (p / RESULTS).is_file()]
        shards = [p for p in jobs if (p / SHARD_MANIFEST).is_file()]
        without = [p.name for p in jobs if p not in shards and not (p / RESULTS).is_file()]
        if shards:
            log.info("%d shards are complete: join them with task=merge merge.from=%s", len(shards), folder)
        if without:
            log.warning("jobs without results: %s", ", ".join(without))
        if found:
            frames = [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in found]
            write_results(folder, results_frame(pd.concat(frames).to_dict("records")))
            log.info("results of %d jobs are in %s", len(found), folder)
