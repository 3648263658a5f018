"""Thresholds of the maps of images, with the objects that a strategy may ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from hetexp.evaluation.cells import Cells
from hetexp.evaluation.thresholds.strategy import GreyMaps, Objects, Strategy
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.ground_truth import owners_of
from hetexp.experiments.detection.scenes import Scene


def thresholds_of(
    strategy: Strategy, scenes: Sequence[Scene], maps: Sequence[Tensor], upsample: Upsampling, tie: Tie
) -> list[Tensor]:
    """Threshold of every map of every image, float64 [k] each.

    Args:
        strategy: what gives them.
        scenes: the images.
        maps: of their detections at 8 bits, uint8 [k, h, w] each.
        upsample: how masks get to the size of the image.
        tie: what a token exactly at the threshold is.
    """
    needed = strategy.rule.needs_objects
    return strategy.thresholds(
        [
            GreyMaps(u8, objects_of(scene, tuple(u8.shape), upsample, tie) if needed else None)
            for scene, u8 in zip(scenes, maps, strict=True)
        ]
    )


def objects_of(scene: Scene, shape: tuple[int, ...], upsample: Upsampling, tie: Tie) -> Objects:
    """The objects that an image's maps [k, h, w] of that shape are of, as `GroundTruth` says which is whose."""
    image = scene.image
    cells = Cells.of(shape[1:], image.input_size, image.size, upsample)
    place = {annotation["id"]: number for number, annotation in enumerate(scene.annotations)}
    singles = [annotation for annotation in scene.annotations if not annotation.get("iscrowd", 0)]
    pixels = np.zeros((shape[0], len(cells.areas)))
    for row, owner in owners_of(singles, image).items():
        pixels[row] = scene.in_cells(cells)[place[owner["id"]]]
    return Objects(cells, pixels, pixels.sum(axis=1) > 0, tie)
