"""Otsu's threshold, as OpenCV computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetexp.errors import InputError
from hetexp.evaluation.thresholds.strategy import GreyMaps, Strategy


@dataclass(frozen=True)
class Otsu:
    """The grey level that divides a map's values into the two classes farthest apart."""

    scalable: ClassVar[bool] = True
    needs_objects: ClassVar[bool] = False

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """Thresholds by image, float64 [k]."""
        return otsu_thresholds_of([image.u8 for image in images])


OTSU = Strategy("otsu", Otsu())


def otsu_thresholds(u8: Tensor) -> Tensor:
    """Threshold of each 8-bit map (Otsu 1979, doi:10.1109/TSMC.1979.4310076).

    The first grey level with the largest between-class variance. The running means are updated level by level, and
    only in this order do ties between neighbouring levels (empty histogram bins) fall as they do in OpenCV, which
    GAE's code calls; the direct formula differs on about one small map in 40,000.

    Args:
        u8: uint8 [k, h, w].

    Returns:
        float64 [k]; 0 for a constant map.

    Raises:
        InputError: on another type or shape.
    """
    return otsu_thresholds_of([u8])[0]


def otsu_thresholds_of(groups: Sequence[Tensor]) -> list[Tensor]:
    """`otsu_thresholds` of several groups of maps, each of its own grid, in one pass over the grey levels.

    Args:
        groups: uint8 [k, h, w] each.

    Returns:
        float64 [k] per group.

    Raises:
        InputError: on another type or shape.
    """
    for u8 in groups:
        if u8.dtype != torch.uint8 or u8.ndim != 3:
            raise InputError(f"maps must be uint8 [k, h, w], got {u8.dtype} {list(u8.shape)}: call to_uint8 first")
    if not groups:
        return []
    counts = np.concatenate([_histograms(u8.cpu().numpy()) for u8 in groups])
    share = np.concatenate([np.full(len(u8), 1.0 / (u8.shape[1] * u8.shape[2])) for u8 in groups])
    found = torch.from_numpy(_best_levels(counts, share)).split([len(u8) for u8 in groups])
    return [thresholds.to(u8.device) for thresholds, u8 in zip(found, groups, strict=True)]


def _best_levels(counts: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Otsu's level of each histogram [k, 256]; `share` [k] is what one pixel counts."""
    mean = (counts * np.arange(256.0)).sum(axis=1) * share
    k = len(counts)
    below, mean_below = np.zeros(k), np.zeros(k)  # weight and mean of the pixels at or below the level
    best, threshold = np.zeros(k), np.zeros(k)
    tiny = float(np.finfo(np.float32).eps)
    for level in range(256):
        p = counts[:, level] * share
        moment = mean_below * below
        below = below + p
        above = 1.0 - below
        split = (np.minimum(below, above) >= tiny) & (np.maximum(below, above) <= 1.0 - tiny)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_below = np.where(split, (moment + level * p) / below, moment)
            gap = mean_below - (mean - below * mean_below) / above
            variance = np.where(split, below * above * gap * gap, 0.0)
        better = variance > best
        best = np.where(better, variance, best)
        threshold = np.where(better, level, threshold)
    return threshold


def _histograms(u8: NDArray[np.uint8]) -> NDArray[np.float64]:
    k = len(u8)
    flat = u8.astype(np.int64) + 256 * np.arange(k)[:, None, None]
    return np.bincount(flat.ravel(), minlength=256 * k).reshape(k, 256).astype(np.float64)
