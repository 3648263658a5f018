"""Dispatch of a run: attribute, evaluate, write the tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from hetexp.errors import ConfigError
from hetexp.experiments import detr, explain_task, lxmert, samples
from hetexp.experiments.data_tasks import run_check, run_download
from hetexp.experiments.merge import merged_session
from hetexp.experiments.results import results_frame, write_results, write_run
from hetexp.experiments.session import Session, open_session, run_folder
from hetexp.experiments.tracking import log_run

log = logging.getLogger("hetexp")

EXPERIMENTS: dict[str, Callable[[Session], list[dict[str, object]]]] = {"detr": detr.run, "lxmert": lxmert.run}


def evaluate(session: Session) -> None:
    """Run the model's experiment and write `results.csv`, `results.md`, `run.json`."""
    start = time.perf_counter()
    rows = EXPERIMENTS[session.cfg.model.name](session)
    session.facts["seconds"] = round(time.perf_counter() - start, 2)
    session.facts["shard"] = session.cfg.shard
    write_run(session.folder, session.facts)
    if session.shard[1] > 1:
        log.info(
            "shard %s is complete: join all with task=merge merge.from=%s", session.cfg.shard, session.folder.parent
        )
        return
    frame = results_frame(rows)
    write_results(session.folder, frame)
    show(frame)
    log_run(session, frame)
    log.info("results are in %s", session.folder)


def show(frame) -> None:  # type: ignore[no-untyped-def]
    """Print the results, methods as columns."""
    for (threshold, panel), part in frame.groupby(["threshold", "panel"], dropna=False, sort=False):
        wide = part.pivot_table(index="metric", columns="method", values="value", sort=False)
        table = Table(title=" ".join(str(x) for x in (panel, "" if threshold != threshold else f"scale {threshold}")))
        table.add_column("metric")
        for method in wide.columns:
            table.add_column(str(method), justify="right")
        for metric, values in wide.iterrows():
            table.add_row(str(metric), *(f"{v:.1f}" for v in values))
        Console().print(table)


TASKS: dict[str, Callable[[DictConfig], None]] = {
    "evaluate": lambda cfg: evaluate(open_session(cfg)),
    "download": run_download,
    "check": run_check,
    "merge": lambda cfg: evaluate(merged_session(cfg, run_folder())),
    "samples": lambda cfg: samples.run(open_session(cfg)),
    "explain": lambda cfg: explain_task.run(open_session(cfg)),
}


def run(cfg: DictConfig) -> None:
    """Run the configured task."""
    if cfg.task.name not in TASKS:
        raise ConfigError(f"unknown task {cfg.task.name!r}. Available tasks: {', '.join(TASKS)}")
    TASKS[cfg.task.name](cfg)
