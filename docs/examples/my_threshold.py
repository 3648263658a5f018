"""A threshold: so many standard deviations above each map's mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hetexp.evaluation.thresholds.registry import STRATEGIES
from hetexp.evaluation.thresholds.strategy import GreyMaps


class AboveMean:
    """Mean plus `deviations` times the standard deviation of a map's grey levels."""

    scalable = True
    needs_objects = False

    def __init__(self, deviations: float = 1.0) -> None:
        self.deviations = deviations

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """Thresholds [k] of the maps of each image."""
        values = [image.u8.double().flatten(1) for image in images]
        return [v.mean(1) + self.deviations * v.std(1, correction=0) for v in values]


STRATEGIES["above_mean"] = f"{__name__}:AboveMean"
