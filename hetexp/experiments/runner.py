"""Dispatch of a run: attribute, evaluate, write the tables."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import pandas as pd
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


def show(frame: pd.DataFrame) -> None:
    """Print the main numbers, a method per row; curves and question types are in results.csv alone."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    main = frame[~frame["metric"].str.startswith("accuracy@") & ~frame["panel"].str.contains("/")]
    for threshold, part in main.groupby("threshold", dropna=False, sort=False):
        columns = list(dict.fromkeys(zip(part["panel"], part["metric"], strict=True)))
        values = {(r.method, r.panel, r.metric): r.value for r in part.itertuples()}
        table = Table(title=None if pd.isna(threshold) else f"threshold scale {threshold:g}")
        table.add_column("method", no_wrap=True)
        for panel, metric in columns:
            table.add_column(f"{panel.replace('_', ' ')}\n{metric}".strip(), justify="right")
        for method in dict.fromkeys(part["method"]):
            cells = [values.get((method, *column)) for column in columns]
            table.add_row(method or "model", *("" if pd.isna(v) else f"{v:.1f}" for v in cells))
        console.print(table)


TASKS: dict[str, Callable[[DictConfig], None]] = {
    "evaluate": lambda cfg: evaluate(open_session(cfg)),
    "download": run_download,
    "check": run_check,
    "merge": lambda cfg: evaluate(merged_session(cfg, run_folder())),
    "samples": lambda cfg: samples.run(open_session(cfg)),
    "explain": lambda cfg: explain_task.run(open_session(explain_task.without_data(cfg))),
}


def run(cfg: DictConfig) -> None:
    """Run the configured task."""
    if cfg.task.name not in TASKS:
        raise ConfigError(f"unknown task {cfg.task.name!r}. Available tasks: {', '.join(TASKS)}")
    TASKS[cfg.task.name](cfg)
