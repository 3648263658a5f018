"""Maps made without any attribution, scored beside the methods: what a measure gives to less knowledge, and to all.

Uniform noise is the method `random`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import sobel
from torch import Tensor

from hetexp.data.registry import DetectionData
from hetexp.errors import ConfigError
from hetexp.evaluation.ground_truth import grid_boxes, grid_mean
from hetexp.experiments.detection.ground_truth import owners_of

if TYPE_CHECKING:
    from hetexp.experiments.detection.scenes import StoredImage


@dataclass(frozen=True)
class ControlInput:
    """What a control may see of one image.

    Attributes:
        image: its detections.
        shape: of its maps [k, h, w], a row for each kept detection.
        data: pixels and annotations.
    """

    image: StoredImage
    shape: tuple[int, ...]
    data: DetectionData


@dataclass(frozen=True)
class Control:
    """A control by its name in results; `make` gives maps [k, h, w]."""

    name: str
    make: Callable[[ControlInput], NDArray[np.float64]]

    def parameter(self, name: str) -> str:
        """Controls have no parameters."""
        return ""

    def maps(self, given: ControlInput) -> Tensor:
        """Maps of one image as a method's are stored, float32 [k, h, w]."""
        return torch.from_numpy(self.make(given).astype(np.float32))


def centre_prior(given: ControlInput) -> NDArray[np.float64]:
    """A Gaussian about the image's centre, its standard deviation a quarter of either side."""
    k, h, w = given.shape
    middles = grid_boxes(h, w).reshape(h, w, 2, 2).mean(axis=2) - 0.5
    return np.broadcast_to(np.exp(-(middles**2).sum(axis=2) / (2 * 0.25**2)), (k, h, w))


def predicted_box(given: ControlInput) -> NDArray[np.float64]:
    """Each detection's own box, filled."""
    k, h, w = given.shape
    maps = np.zeros((k, h, w))
    for (row, *_), (x, y, wide, high) in zip(given.image.detections, given.image.boxes, strict=True):
        if row >= 0:
            rows, columns = (_filled(m - s / 2, m + s / 2, n) for m, s, n in ((y, high, h), (x, wide, w)))
            maps[row] = np.outer(rows, columns)
    return maps


def edges(given: ControlInput) -> NDArray[np.float64]:
    """Sobel's edges of the image's luminance, averaged over each cell; the same for every detection."""
    k, h, w = given.shape
    item = next(item for item in given.data.items if item.image_id == given.image.image_id)
    grey = np.asarray(given.data.load(item).convert("L"), dtype=np.float64) / 255
    return np.broadcast_to(grid_mean(sobel(grey), h, w), (k, h, w))


def oracle(given: ControlInput) -> NDArray[np.float64]:
    """The share of each cell that the detected object's own mask covers: the best that maps on this grid can be."""
    coco, maps = given.data.coco, np.zeros(given.shape)
    annotations = [a for a in coco.imgToAnns.get(given.image.image_id, []) if not a.get("iscrowd", 0)]
    for row, owner in owners_of(annotations, given.image).items():
        maps[row] = grid_mean(coco.annToMask(owner).astype(bool), *given.shape[1:])
    return maps


# Name, as `controls=[...]` lists it and results.csv shows it -> control.
CONTROLS = {make.__name__: Control(make.__name__, make) for make in (centre_prior, predicted_box, edges, oracle)}


def get_control(name: str) -> Control:
    """The control of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in CONTROLS:
        raise ConfigError(
            f"unknown control {name!r}. Available for detectors: {', '.join(CONTROLS)}; noise is methods=[...,random]"
        )
    return CONTROLS[name]


def _filled(low: float, high: float, cells: int) -> NDArray[np.float64]:
    """Share of each of `cells` equal parts of 0..1 that lies between low and high."""
    ends = np.linspace(0, 1, cells + 1)
    return np.clip(np.minimum(ends[1:], high) - np.maximum(ends[:-1], low), 0, None) * cells
