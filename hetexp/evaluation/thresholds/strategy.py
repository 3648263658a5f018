"""What a strategy of binarisation sees of an image's maps, and what it gives: a grey level for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetexp.errors import InputError
from hetexp.evaluation.upsampling import Tie

if TYPE_CHECKING:
    from hetexp.evaluation.cells import Cells


@dataclass(frozen=True)
class Objects:
    """The objects that maps are explanations of, in an annotated image.

    Attributes:
        cells: the rectangles of the image that every mask on the maps' grid covers wholly or not at all.
        pixels: of each map's object in every cell, float64 [k, cells]; 0 where a map has none.
        known: which maps have an object [k].
        tie: what a token exactly at the threshold is.
    """

    cells: Cells
    pixels: NDArray[np.float64]
    known: NDArray[np.bool_]
    tie: Tie


@dataclass(frozen=True)
class GreyMaps:
    """The maps of one image.

    Attributes:
        u8: at 8 bits, each from 0 to 255, or 0 all over if it is constant; uint8 [k, h, w].
        objects: their objects, for a rule that needs them in a run on annotated images; else None.
    """

    u8: Tensor
    objects: Objects | None = None


class ThresholdRule(Protocol):
    """A rule by which maps get their thresholds; its constructor's arguments are its parameters.

    Attributes:
        scalable: whether a multiple of its threshold makes sense; without, `threshold.scale` must be 1.
        needs_objects: whether it reads the ground truth, so that it is an oracle and no method.
    """

    @property
    def scalable(self) -> bool: ...

    @property
    def needs_objects(self) -> bool: ...

    def __call__(self, images: Sequence[GreyMaps]) -> Sequence[Tensor]:
        """Threshold of every map, a grey level, by image [k]; what is above it is foreground."""
        ...


@dataclass(frozen=True)
class Strategy:
    """A rule under its name in results, "quantile(share=0.1)"."""

    name: str
    rule: ThresholdRule

    def thresholds(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """The rule's thresholds of several images, each of its own grid; none is below 0, so that a constant map has an
        empty mask.

        Returns:
            float64 [k] per image.

        Raises:
            InputError: on maps of another type or shape, if the rule lacks the objects that it needs, and if it gives
                something else than a finite number for each map.
        """
        for image in images:
            if image.u8.dtype != torch.uint8 or image.u8.ndim != 3:
                raise InputError(
                    f"maps must be uint8 [k, h, w], got {image.u8.dtype} {list(image.u8.shape)}: call to_uint8 first"
                )
            if self.rule.needs_objects and image.objects is None:
                raise InputError(
                    f"threshold strategy {self.name} reads the masks of the objects, which are known only where a "
                    "detector is evaluated on annotated images: choose another strategy"
                )
        found = [torch.as_tensor(levels) for levels in self.rule(images)]
        wanted = [len(image.u8) for image in images]
        if [list(levels.shape) for levels in found] != [[k] for k in wanted]:
            raise InputError(
                f"threshold strategy {self.name} must give a number for each map, shapes {[[k] for k in wanted][:5]}, "
                f"got {[list(levels.shape) for levels in found][:5]}"
            )
        if not all(bool(levels.isfinite().all()) for levels in found):
            raise InputError(f"threshold strategy {self.name} gave a threshold that is not finite")
        placed = [levels.to(image.u8.device, torch.float64) for levels, image in zip(found, images, strict=True)]
        return [levels.clamp(min=0) for levels in placed]

    def check_scale(self, scale: float) -> None:
        """Refuse a multiple of a threshold that has none.

        Raises:
            InputError: for a scale other than 1 where the rule is not scalable.
        """
        if scale != 1 and not self.rule.scalable:
            raise InputError(
                f"threshold scale {scale:g} has no meaning for the strategy {self.name}, whose level is chosen as it "
                "is: leave the scale at 1"
            )
