"""Read checkpoints from a local folder or the hub, and refuse those that do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from hetexp.errors import CheckpointError, some


@contextmanager
def quiet() -> Iterator[None]:
    """The library reports errors only, and draws no progress bar."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


def pinned(source: str, revision: str | None, known: Mapping[str, str]) -> str | None:
    """Hub revision to load: the one given, or the one known for this checkpoint; none for a local folder."""
    return None if Path(source).is_dir() else revision or known.get(source)


def read_config(source: str, revision: str | None) -> PretrainedConfig:
    """The checkpoint's `config.json`.

    Raises:
        CheckpointError: if there is none, or it names no architecture of the library.
    """
    try:
        with quiet():
            return AutoConfig.from_pretrained(source, revision=revision)
    except (ValueError, OSError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source!r} holds no usable config.json: {error}") from error


@contextmanager
def readable(what: str) -> Iterator[None]:
    """What reading a damaged file raises inside becomes a `CheckpointError`; OSError passes.

    Args:
        what: the file, for the message.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{what} is damaged: {error}; fetch it again") from error


def expect_type(source: str, config: PretrainedConfig, model_type: str) -> None:
    """Refuse a checkpoint of another architecture.

    Raises:
        CheckpointError: naming both.
    """
    if config.model_type != model_type:
        raise CheckpointError(
            f"{source!r} is a {config.model_type!r} checkpoint, expected {model_type!r}: choose the matching model="
        )


def load_weights(
    kind: type[PreTrainedModel],
    source: str,
    config: PretrainedConfig,
    revision: str | None,
    dtype: torch.dtype,
    key_mapping: dict[str, str] | None = None,
) -> Any:
    """The model, after checking that every weight it needs was in the checkpoint and fits.

    Args:
        key_mapping: pattern -> replacement of tensor names.

    Raises:
        CheckpointError: for damaged, missing or misshapen weights, which it names.
        OSError: for weights that are not there.
    """
    try:
        model, info = kind.from_pretrained(
            source,
            config=config,
            key_mapping=key_mapping,
            revision=revision,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are named below
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, ImportError) as error:
        raise CheckpointError(f"{source!r} does not fit {kind.__name__}: {error}") from error
    except Exception as error:  # safetensors raises its own class for a damaged file
        if type(error).__module__.startswith("safetensors"):
            raise CheckpointError(f"weights in {source!r} are damaged: {error}") from error
        raise
    faults = [f"missing {k}" for k in sorted(info["missing_keys"])]
    for key, found, wanted in sorted(info["mismatched_keys"]):
        faults.append(f"{key} has shape {list(found)}, expected {list(wanted)}")
    if faults:
        raise CheckpointError(f"{source!r} does not fit {kind.__name__}: {some(faults)}")
    return model
