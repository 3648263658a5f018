"""A metric of detection: how much of the image an average mask covers."""

from __future__ import annotations

from collections.abc import Sequence

from pycocotools.coco import COCO

from hetexp.experiments.detection.metrics import METRICS
from hetexp.experiments.detection.scenes import ScoredImage


class MaskShare:
    """Mean share of the image that a mask covers, in percent; empty masks count."""

    panel = "masks"

    def __init__(self, coco: COCO, image_ids: Sequence[int]) -> None:
        self._shares: list[float] = []

    def add(self, image: ScoredImage) -> None:
        """Take the masks [k, H, W] of one more image into account."""
        self._shares += image.masks.flatten(1).float().mean(1).tolist()

    def values(self) -> dict[str, float | None]:
        """The mean, or None where nothing was detected."""
        return {"mask_share": 100 * sum(self._shares) / len(self._shares) if self._shares else None}


METRICS["mask_share"] = f"{__name__}:MaskShare"
