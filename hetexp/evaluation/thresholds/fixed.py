"""A fixed share of a map's range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.strategy import GreyMaps


@dataclass(frozen=True)
class Fixed:
    """The same place between the least and the largest value of every map.

    Attributes:
        level: that place, 0 the least and 1 the largest value; 0.2 is that of CAM's boxes (Zhou et al., CVPR 2016,
            doi:10.1109/CVPR.2016.319).

    Raises:
        ConfigError: for a level outside of 0 to 1.
    """

    level: float = 0.2
    scalable: ClassVar[bool] = True
    needs_objects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 <= self.level <= 1:
            raise ConfigError(f"level={self.level!r} of fixed must be a number from 0 to 1, e.g. 0.2")

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """Thresholds by image, float64 [k]."""
        return [torch.full((len(image.u8),), 255.0 * self.level, dtype=torch.float64) for image in images]
