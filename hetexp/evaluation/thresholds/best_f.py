"""The best threshold that each map could have been given: an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hetexp.errors import InputError
from hetexp.evaluation.masks import above
from hetexp.evaluation.thresholds.otsu import otsu_thresholds_of
from hetexp.evaluation.thresholds.strategy import GreyMaps, Objects

_VALUES = 2**22  # levels x cells at once


@dataclass(frozen=True)
class BestF:
    """The grey level whose mask on the image has the largest F-measure against the mask of the map's object.

    F = 2 |mask and object| / (|mask| + |object|), in pixels of the image; of equal levels the lowest. It grows with
    IoU = F / (2 - F), so no threshold gives the detection a larger overlap with its object. The object is read from
    the annotations: this is an upper bound for whatever chooses a threshold, and not a method. A map without an
    object, and one of which no mask meets its object, has Otsu's threshold.

    It bounds the overlap of every detected object, and AP only nearly. COCO matches masks anew, the most probable
    detection first: one may have found, under another threshold, another object than the one whose box it fits, and a
    better mask of a likelier detection may take the object of a less likely one.
    """

    scalable: ClassVar[bool] = False
    needs_objects: ClassVar[bool] = True

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """Thresholds by image, float64 [k].

        Raises:
            InputError: for an image whose objects are not given.
        """
        found = otsu_thresholds_of([image.u8 for image in images])
        for image, levels in zip(images, found, strict=True):
            if image.objects is None:
                raise InputError("best_f needs the objects of every image: choose another strategy")
            for row in np.flatnonzero(image.objects.known):
                tried = image.u8[row].unique().double()
                measured = _f_measures(image.u8[row], tried, image.objects, image.objects.pixels[row])
                if measured.max() > 0:
                    levels[row] = tried[int(measured.argmax())]
        return found


def _f_measures(u8: Tensor, levels: Tensor, objects: Objects, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """F-measure of one map's mask at every level [n] against an object of so many pixels in each cell."""
    areas, size = objects.cells.areas, pixels.sum()
    parts = []
    for some in levels.split(max(1, _VALUES // len(areas))):
        cover = objects.cells.cover(above(u8[None], some[:, None], objects.tie).flatten(0, 1))
        parts.append(2 * (cover @ pixels) / (cover @ areas + size))
    return np.concatenate(parts)
