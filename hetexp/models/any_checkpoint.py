"""Checkpoints of the library whose architecture has no adapter here: the class that their configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hetexp.errors import CheckpointError
from hetexp.models.checkpoints import load_weights, pinned, read_config
from hetexp.models.wired import WiredModel, wrap


def load_any(source: str, device: torch.device, dtype: torch.dtype, revision: str | None = None) -> Any:
    """The model of a checkpoint.

    Raises:
        CheckpointError: if its `config.json` names no class of the library.
        OSError: for a checkpoint that is not there.
    """
    revision = pinned(source, revision, {})
    config = read_config(source, revision)
    names = getattr(config, "architectures", None) or []
    kind = getattr(transformers, names[0], None) if names else None
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise CheckpointError(
            f"config.json of {source!r} names the architectures {names}, none of which is a class of transformers: "
            "load the model in Python and give it to hetexp.propose"
        )
    return load_weights(kind, source, config, revision, dtype).to(device)


def load(
    source: str, device: torch.device, dtype: torch.dtype, revision: str | None = None, *, wiring: str | Path
) -> WiredModel:
    """The model of a checkpoint behind the wiring of a YAML file; see `hetexp.load_model`.

    Raises:
        CheckpointError: for a checkpoint that does not fit.
        ConfigError: for a wiring that does not fit.
        OSError: for a checkpoint that is not there.
    """
    return wrap(load_any(source, device, dtype, revision), wiring)
