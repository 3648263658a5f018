"""Masks on disk as COCO's run lengths: a photograph's masks take kilobytes instead of its number of pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hetexp.errors import DataError

RunLengths = dict[str, Any]  # {"size": [H, W], "counts": COCO's compressed text}


def plain_run_lengths(coded: Mapping[str, Any]) -> RunLengths:
    """Run lengths as pycocotools gives them, in a form that JSON takes."""
    counts = coded["counts"]
    return {"size": list(coded["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def decode_masks(coded: Sequence[RunLengths], where: str) -> np.ndarray:
    """Masks of run lengths that have one size, uint8 [k, H, W].

    Raises:
        DataError: if they are damaged; the message names `where` they stand.
    """
    try:
        pixels: np.ndarray = coco_mask.decode([{**r, "counts": str(r["counts"]).encode("ascii")} for r in coded])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is damaged ({error}): make it again") from error
    return np.moveaxis(pixels, -1, 0)


def encode_masks(masks: Mapping[str, np.ndarray]) -> str:
    """JSON of masks by name, [k, H, W] each: a list of {"size": [H, W], "counts": ...}, COCO's compressed form."""
    coded = {}
    for name, several in masks.items():
        pixels = np.asfortranarray(np.moveaxis(several.astype(np.uint8), 0, -1))
        coded[name] = [plain_run_lengths(r) for r in coco_mask.encode(pixels)]
    return json.dumps(coded)


class MaskFile(Mapping[str, np.ndarray]):
    """The masks of a file of `encode_masks` by name, uint8 [k, H, W], read when first looked into.

    Raises:
        DataError: when looked into, if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _coded(self) -> dict[str, list[RunLengths]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read ({error}): make it again") from error
        if not isinstance(found, dict):
            raise DataError(f"{self.path} holds no masks by name: make it again")
        return found

    def __getitem__(self, key: str) -> np.ndarray:
        several = self._coded[key]
        if not several:
            return np.zeros((0, 0, 0), dtype=np.uint8)
        return decode_masks(several, f"{self.path}, {key!r},")

    def __iter__(self) -> Iterator[str]:
        return iter(self._coded)

    def __len__(self) -> int:
        return len(self._coded)
