"""Explained samples as `task=samples` left them on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hetexp.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One explained input: its folder and `info.json`."""

    folder: Path
    info: dict[str, Any]

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        with Image.open(self.folder / "image.png") as image:
            return np.asarray(image.convert("RGB"))

    @cached_property
    def relevance(self) -> dict[str, np.ndarray]:
        """Maps by key: "<method>" [k, h, w] or "<method>/<stream>" [N]."""
        return _tensors(self.folder / "relevance.safetensors")

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """ "<method>@<scale>" -> bool [k, H, W]."""
        path = self.folder / "masks.safetensors"
        return {k: v.astype(bool) for k, v in _tensors(path).items()} if path.exists() else {}

    @cached_property
    def levels(self) -> dict[str, np.ndarray]:
        """Maps as Otsu's threshold sees them, "<method>" -> uint8 [k, h, w]."""
        path = self.folder / "levels.safetensors"
        return _tensors(path) if path.exists() else {}

    def need(self, key: str) -> np.ndarray:
        """One relevance map.

        Raises:
            DataError: if the sample was explained without it.
        """
        if key not in self.relevance:
            raise DataError(f"sample {self.folder} has no {key}: make the samples again, {_command(self.info['kind'])}")
        return self.relevance[key]


@dataclass(frozen=True)
class SampleSet:
    """All samples of one model."""

    about: dict[str, Any]  # model, checkpoint, data, versions
    samples: list[Sample]

    def part(self, name: str) -> list[Sample]:
        """Samples of one part ("questions", "logic")."""
        return [s for s in self.samples if s.info.get("part") == name]


def _command(model: str) -> str:
    return f"`python run.py task=samples model={model}`"


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): make the samples again with task=samples") from error


def read_samples(outputs: Path, model: str) -> SampleSet:
    """The samples of a model below an outputs folder.

    Raises:
        DataError: if there are none; the message names the command that makes them.
    """
    folder = outputs / "samples" / model
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        names = about.pop("items")
        infos = [json.loads((folder / name / "info.json").read_text(encoding="utf-8")) for name in names]
    except FileNotFoundError as error:
        raise DataError(f"no samples of {model} below {outputs}: make them with {_command(model)}") from error
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"samples in {folder} are damaged ({error}): make them again with {_command(model)}") from error
    return SampleSet(about, [Sample(folder / name, info) for name, info in zip(names, infos, strict=True)])
