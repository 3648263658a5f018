"""Where the relevance of a detection lies, measured on the token grid against the masks of the objects in the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetexp.evaluation.localisation import (
    area_matched_iou,
    auprc,
    auroc,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PARTS = ("target", "sibling", "other", "background")


@dataclass(frozen=True)
class Surroundings:
    """What is around one object: disjoint masks of the image, bool [H, W] each.

    Attributes:
        target: the object itself.
        sibling: other objects of its category.
        other: objects of other categories.
    """

    target: Mask
    sibling: Mask
    other: Mask

    @classmethod
    def of(cls, target: Mask, sibling: Mask, other: Mask) -> Surroundings:
        """From masks that may overlap: a pixel of the target is no sibling's, one of a sibling no other object's."""
        return cls(target, sibling & ~target, other & ~target & ~sibling)

    @property
    def background(self) -> Mask:
        """What no object covers."""
        return ~(self.target | self.sibling | self.other)


def grid_mean(pixels: NDArray[Any], height: int, width: int) -> Floats:
    """Mean of each cell of a grid laid over an image [H, W] -> [height, width]; pixels across a border count in part.

    The mean of a mask is the share of the cell that it covers.
    """
    rows, columns = _overlaps(pixels.shape[0], height), _overlaps(pixels.shape[1], width)
    return np.asarray(rows @ pixels.astype(np.float64) @ columns.T)


def grid_boxes(height: int, width: int) -> Floats:
    """The cells of a grid, row by row, as x1, y1, x2, y2 in units of the image's sides [height * width, 4]."""
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    return np.stack([x / width, y / height, (x + 1) / width, (y + 1) / height], axis=1)


def map_measures(relevance: Floats, around: Surroundings) -> dict[str, float]:
    """All measures of one map, each in 0..1.

    Args:
        relevance: [h, w], finite; its grid covers the whole image.
        around: masks [H, W] with at least a pixel of the target.

    Returns:
        AUPRC, AUROC, pointing_game, relevance_mass_accuracy, relevance_rank_accuracy and area_matched_iou against the
        target, and the share of positive relevance on the target, on its siblings, on other objects and on the
        background (energy_target is relevance_mass_accuracy).
    """
    height, width = relevance.shape
    flat = relevance.astype(np.float64).reshape(-1)
    inside = {part: grid_mean(getattr(around, part), height, width).reshape(-1).clip(0, 1) for part in PARTS}
    target = inside["target"]
    rank = relevance_rank_accuracy(flat, target)
    energy: Mapping[str, float] = {part: relevance_mass_accuracy(flat, share) for part, share in inside.items()}
    return {
        "AUPRC": auprc(flat, target),
        "AUROC": auroc(flat, target),
        "pointing_game": float(pointing_game(flat, grid_boxes(height, width), around.target)),
        "relevance_mass_accuracy": energy["target"],
        "relevance_rank_accuracy": rank,
        "area_matched_iou": area_matched_iou(rank),
        **{f"energy_{part}": share for part, share in energy.items()},
    }


@lru_cache(maxsize=256)
def _overlaps(pixels: int, cells: int) -> Floats:
    """[cells, pixels]: how much of a cell each pixel makes up along one axis."""
    edges = np.linspace(0, pixels, cells + 1)
    left = np.arange(pixels)
    common = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
    return np.asarray(np.clip(common, 0, None) * cells / pixels)
