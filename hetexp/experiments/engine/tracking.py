"""Weights & Biases: scalars, results table and sample pictures of a run. Never needed, and never the end of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from hetexp.config import plain
from hetexp.errors import ConfigError
from hetexp.experiments.engine.session import Session
from hetexp.files import content_hash

log = logging.getLogger("hetexp")

# What decides no number; a rerun that differs only here continues the same W&B run.
_LOCAL = ("paths", "progress", "threads", "logger", "task", "merge", "device")


def log_run(session: Session, frame: pd.DataFrame) -> None:
    """Log a finished run, offline unless `logger.mode=online`; a failure is reported and passed over.

    Raises:
        ConfigError: for an unknown logger.
    """
    cfg = session.cfg.logger
    if cfg.name == "none":
        return
    if cfg.name != "wandb":
        raise ConfigError(f"unknown logger {cfg.name!r}: choose none or wandb")
    try:
        import wandb
    except ImportError:
        log.warning("logger=wandb needs the package wandb (pip install 'hetexp[wandb]'): this run is not logged")
        return
    try:
        group = cfg.group or _group(session)
        with wandb.init(
            project=cfg.project,
            group=group,
            id=run_id(session, group),
            resume="allow",
            mode=cfg.mode,
            dir=str(session.folder),
            name=session.folder.name,
            config=plain(session.cfg) | {"facts": session.facts},
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=60
            ),
        ) as run:
            run.log(scalars(frame))
            run.log({"results": wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))})
            if session.pictures is not None and cfg.overlays > 0:
                shown = session.pictures(cfg.overlays)
                run.log({f"samples/{i}": wandb.Image(p, caption=text) for i, (text, p) in enumerate(shown)})
    except Exception as error:  # the numbers are on disk already; a logger must not cost them
        log.warning("wandb failed (%s: %s): the results on disk are complete", type(error).__name__, error)


def run_id(session: Session, group: str | None) -> str:
    """The same for a rerun of the same job on the same weights and data, so that W&B resumes instead of repeating."""
    kept = {k: v for k, v in plain(session.cfg).items() if k not in _LOCAL}
    return content_hash([kept, group, session.facts.get("store"), session.facts.get("dataset")])[:16]


def scalars(frame: pd.DataFrame) -> dict[str, float]:
    """Results with a value, named method/panel/threshold/metric as far as each applies."""
    out = {}
    for row in frame.dropna(subset=["value"]).to_dict("records"):
        scale: Any = row["threshold"]
        parts = [row["method"], row["panel"], "" if scale is None or math.isnan(scale) else f"{scale:g}", row["metric"]]
        out["/".join(str(p) for p in parts if p)] = float(row["value"])
    return out


def _group(session: Session) -> str | None:
    """The sweep's folder names a group of runs; a single run goes by its experiment."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return "-".join(str(HydraConfig.get().sweep.dir).rstrip("/").rsplit("/", maxsplit=2)[-2:])
    return session.cfg.experiment
