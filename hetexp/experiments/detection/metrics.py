"""Metrics of detection: what is measured of every method's maps and masks, one record each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from pycocotools.coco import COCO
from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.evaluation.coco import SegmentationScorer
from hetexp.evaluation.masks import encode
from hetexp.evaluation.matches import Matches
from hetexp.paths import import_from


@dataclass(frozen=True)
class ScoredImage:
    """One image with the maps and masks of one method at one threshold.

    Attributes:
        image_id: in the annotations.
        size: (height, width) of the image.
        relevance: maps of the kept queries [k, h, w]; one that was not finite is 0.
        masks: the same, binarised and upsampled, bool [k, H, W].
        detections: per detection the row of its map or -1, its category (None: not of this data) and its score.
        boxes: per detection centre x, centre y, width and height in units of the image's sides.
    """

    image_id: int
    size: tuple[int, int]
    relevance: Tensor
    masks: Tensor
    detections: Sequence[tuple[int, int | None, float]]
    boxes: Sequence[tuple[float, float, float, float]]


class DetectionMetric(Protocol):
    """Collects images one by one; made anew for every method and threshold with (annotations, image ids).

    Two more methods give results their intervals and paired tests: `matches() -> Matches` of COCO's metrics in percent,
    and `items() -> Iterable[ItemValues]` of means. A metric of the relevance alone says ``of_masks = False``, and is
    then computed once for all thresholds.
    """

    panel: str  # column `panel` of results.csv

    def add(self, image: ScoredImage) -> None:
        """Take one more image into account."""
        ...

    def values(self) -> dict[str, float | None]:
        """Metric -> value as results.csv shows it; None where the data has no such objects."""
        ...


class SegmentationAP:
    """COCO's average precision and recall of the masks, in percent, at IoU from 0.20 (the paper's Tables 1 and 2)."""

    panel = "segm"
    shown = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")

    def __init__(self, coco: COCO, image_ids: Sequence[int]) -> None:
        self._scorer = SegmentationScorer(coco, image_ids)

    def add(self, image: ScoredImage) -> None:
        """Submit every detection with its mask; one without a map has an empty mask."""
        codes = encode(image.masks)
        for target, category, score in image.detections:
            self._scorer.add(
                {
                    "image_id": image.image_id,
                    "category_id": category,
                    "segmentation": codes[target] if target >= 0 else _empty(image.size),
                    "score": score,
                }
            )

    def matches(self) -> Matches:
        """What the figures are computed from, image by image."""
        return self._scorer.matches()

    def values(self) -> dict[str, float | None]:
        """The six figures of the paper's tables."""
        found = self._scorer.metrics()
        return {name: None if (value := found[name]) is None else 100 * value for name in self.shown}


@cache
def _empty(size: tuple[int, int]) -> dict[str, Any]:
    return encode(torch.zeros(1, *size, dtype=torch.bool))[0]


# Name, as `metrics=[...]` lists it -> class; all are computed unless `metrics` says which.
METRICS: dict[str, str] = {
    "segm": "hetexp.experiments.detection.metrics:SegmentationAP",
    "ground_truth": "hetexp.experiments.detection.ground_truth:GroundTruth",
}


def get_metric(name: str) -> type[DetectionMetric]:
    """The metric of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}. Available for detectors: {', '.join(METRICS)}")
    found: type[DetectionMetric] = import_from(METRICS[name])
    return found
