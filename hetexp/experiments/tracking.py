"""Weights & Biases: scalars and the results table of a run. Never needed, and never the end of a run."""

from __future__ import annotations

import logging

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from hetexp.errors import ConfigError
from hetexp.experiments.session import Session

log = logging.getLogger("hetexp")


def log_run(session: Session, frame: pd.DataFrame) -> None:
    """Log a finished run, offline unless `logger.mode=online`; a failure is reported and passed over."""
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
    settings = OmegaConf.to_container(session.cfg, resolve=True, throw_on_missing=False)
    assert isinstance(settings, dict)
    try:
        with wandb.init(
            project=cfg.project,
            group=cfg.group or _group(session),
            mode=cfg.mode,
            dir=str(session.folder),
            name=session.folder.name,
            config={str(k): v for k, v in settings.items()},
        ) as run:
            scalars = frame.dropna(subset=["value"])
            run.log({f"{r.method}/{r.panel}/{r.threshold}/{r.metric}": float(r.value) for r in scalars.itertuples()})
            run.log({"results": wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))})
    except Exception as error:  # the numbers are on disk already; a logger must not cost them
        log.warning("wandb failed (%s): the results on disk are complete", error)


def _group(session: Session) -> str | None:
    """The sweep's folder names a group of runs."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return str(hydra.sweep.dir).rsplit("/", maxsplit=2)[-1]
    return session.cfg.experiment
