"""Hydra callback: join the results of a sweep's jobs into one table."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hetexp.stopping import begun_elsewhere

log = logging.getLogger("hetexp")


class CollateResults(Callback):
    """Writes `results.csv` and `results.md` of a whole sweep from what its jobs wrote."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how to go on, should this be stopped: shards keep their stores in the sweep's folder."""
        folder = config.hydra.sweep.dir
        if any(str(override).startswith("shard=") for override in config.hydra.overrides.task):
            again = f"hydra.sweep.dir={folder}"
            begun_elsewhere(again, f"shards keep what they have computed in {folder}")
            log.info("if this sweep is stopped or a shard is killed, the same command with %s continues there", again)
        elif "basic_launcher" not in config.hydra.launcher._target_:
            begun_elsewhere("", f"finished jobs are in {folder}, relevance is in {config.paths.store}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the jobs' tables in job order; jobs without one (failed) are named."""
        import pandas as pd  # Hydra makes a callback at every start, also of what never has use for it

        from hetexp.experiments.engine.results import RESULTS, SHARD_MANIFEST, results_frame, write_results

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
            frame = results_frame(pd.concat(frames).to_dict("records"))
            frame["experiment"] = frame["experiment"].fillna(_swept(config.hydra.overrides.task))
            write_results(folder, frame)
            log.info("results of %d jobs are in %s", len(found), folder)


def _swept(overrides: Iterable[str]) -> str:
    """What a sweep is of, where no experiment names it: "sweep of method, threshold.scale"."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return f"sweep of {', '.join(o.key_or_group for o in parsed if o.is_sweep_override()) or 'nothing'}"
