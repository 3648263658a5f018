"""task=structure: what a model's attention connects, from one dry run (Figure 1 of the paper, for any model)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from hetexp.config import without_data
from hetexp.data.pictures import open_image
from hetexp.dry_run import structure
from hetexp.errors import ConfigError
from hetexp.experiments.engine.session import Session, open_session, pick_device
from hetexp.models.any_checkpoint import load_any
from hetexp.models.checkpoints import quiet
from hetexp.models.examples import made_up
from hetexp.models.proposal import propose
from hetexp.models.registry import AUTO, is_known
from hetexp.models.wired import wrap

log = logging.getLogger("hetexp")


def run_structure(cfg: DictConfig) -> None:
    """Print the model's streams and steps, and write them as text, JSON and pictures into the run's folder.

    For a checkpoint of an architecture on no list, without a wiring, one is proposed and written there too.

    Raises:
        ConfigError: for an image beside a model that is no detector.
    """
    session = open_session(without_data(cfg))
    known = cfg.model.name != AUTO or cfg.model.wiring or is_known(cfg.model.checkpoint, cfg.model.revision)
    adapter = session.adapter if known else _proposed(session)
    found = structure(adapter, _inputs(cfg, adapter))
    print(found)
    log.info("structure: %s", ", ".join(map(str, found.save(session.folder))))


def _inputs(cfg: DictConfig, adapter: Any) -> Mapping[str, Tensor] | None:
    if not cfg.image:
        return None
    if not hasattr(adapter, "detect"):
        raise ConfigError(
            f"image={cfg.image} gives a detector's structure its sizes, and {adapter.name} is none: leave image out, "
            "or call hetexp.structure with the model's own inputs in Python"
        )
    found: Mapping[str, Tensor] = adapter.prepare([open_image(Path(cfg.image), upright=True)])
    return found


def _proposed(session: Session) -> Any:
    """The model behind the wiring that one pass suggests, which is written for the user to correct."""
    model_cfg = session.cfg.model
    with quiet():
        model = load_any(
            model_cfg.checkpoint,
            pick_device(session.cfg.device),
            getattr(torch, session.cfg.dtype.name),
            model_cfg.revision,
        )
    wiring = propose(model, made_up(model))
    path = wiring.save(session.folder / "wiring.yaml")
    print(wiring)
    log.info("this wiring is a proposal: correct %s, and give it as model.wiring=%s", path, path)
    return wrap(model, wiring)
