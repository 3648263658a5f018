"""Training state in safetensors files, and Hugging Face folders that change as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetexp.files import atomic_file, atomic_folder


@dataclass
class TrainingState:
    """What a stopped training goes on from.

    Attributes:
        weights: tensors by name.
        moments: AdamW's state by number of the parameter.
        progress: JSON-serialisable facts, such as steps and seconds.
    """

    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    progress: dict[str, Any]

    def restore_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimiser the moments; its settings stay its own."""
        optimizer.load_state_dict({"state": self.moments, "param_groups": optimizer.state_dict()["param_groups"]})


def save_state(
    path: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write a TrainingState, whole or not at all.

    Args:
        path: the file.
        weights: tensors by name.
        optimizer: one whose state is tensors, such as AdamW.
        progress: JSON-serialisable facts.
    """
    tensors = {f"weights.{name}": value.detach().contiguous() for name, value in weights.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": value.contiguous() for name, value in state.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(dict(progress))})


def load_state(path: Path, device: torch.device | str = "cpu") -> TrainingState:
    """Read what `save_state` wrote."""
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path, device=str(device)).items():
        part, _, name = key.partition(".")
        if part == "weights":
            weights[name] = value
        else:
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = value
    with safe_open(path, "pt") as file:
        return TrainingState(weights, moments, json.loads(file.metadata()["progress"]))


@contextmanager
def updated_folder(folder: Path) -> Iterator[Path]:
    """Hand out a copy of a folder, which takes its place when the block ends well."""
    with atomic_folder(folder, replace=True) as new:
        if folder.exists():
            shutil.copytree(folder, new, dirs_exist_ok=True)
        yield new
        for file in new.iterdir():
            file.chmod(0o644)  # some writers keep their files to themselves
