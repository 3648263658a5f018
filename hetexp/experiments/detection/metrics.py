"""Metrics of detection: what is measured of every method's maps and masks, one record each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from hetexp.errors import ConfigError
from hetexp.evaluation.accumulate import accumulate
from hetexp.evaluation.coco import SEGM_THRESHOLDS
from hetexp.evaluation.matches import Matches
from hetexp.evaluation.matching import Detections, Objects, match
from hetexp.experiments.detection.scenes import ScoredImage, SweptImage
from hetexp.paths import import_from


class DetectionMetric(Protocol):
    """Collects images one by one; made anew for every method and threshold with (annotations, image ids).

    Two more methods give results their intervals and paired tests: `matches() -> Matches` of COCO's metrics in percent,
    and `items() -> Iterable[ItemValues]` of means. A metric of the relevance alone says ``of_masks = False``, and is
    then computed once for all thresholds. One that takes all thresholds at once is a `SweptMetric`.
    """

    panel: str  # column `panel` of results.csv

    def add(self, image: ScoredImage) -> None:
        """Take one more image into account."""
        ...

    def values(self) -> dict[str, float | None]:
        """Metric -> value as results.csv shows it; None where the data has no such objects."""
        ...


class SweptMetric(Protocol):
    """A metric made once for all thresholds of a method, with (annotations, image ids, number of thresholds)."""

    of_thresholds: bool  # True tells it from a `DetectionMetric`

    def add(self, image: SweptImage) -> None:
        """Take one more image into account."""
        ...

    def at_each(self) -> Sequence[Any]:
        """Per threshold what a `DetectionMetric` has after its last image."""
        ...


@dataclass(frozen=True)
class SegmentationAP:
    """COCO's average precision and recall of masks, in percent, at IoU from 0.20 (the paper's Tables 1 and 2)."""

    panel = "segm"
    shown = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")

    found: Matches
    metrics: dict[str, float | None]  # as fractions

    def matches(self) -> Matches:
        """What the figures are computed from, image by image."""
        return self.found

    def values(self) -> dict[str, float | None]:
        """The six figures of the paper's tables."""
        return {name: None if (value := self.metrics[name]) is None else 100 * value for name in self.shown}


class Segmentation:
    """`SegmentationAP` at every threshold; detections without a map have an empty mask."""

    of_thresholds = True

    def __init__(self, coco: COCO, image_ids: Sequence[int], thresholds: int) -> None:
        self._objects = Objects.of(coco, sorted(image_ids))
        self._place = {image: place for place, image in enumerate(self._objects.images.tolist())}
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("image", "category", "score", "pairs")}
        self._sets: dict[str, list[NDArray[Any]]] = {"area": [np.zeros((thresholds, 0))], "iou": []}

    def add(self, image: SweptImage) -> None:
        """Take the overlaps of every detection's masks with the objects of its category."""
        scene = image.scene
        rows, categories, scores = scene.detections
        detection, thing = scene.pairs
        area = image.areas[:, rows]
        common = image.intersections[:, rows[detection], thing]
        theirs = np.where(scene.crowd[thing], 0, scene.in_cells(image.cells).sum(1)[thing] - common)
        either = area[:, detection] + theirs  # of a crowd only what the mask covers
        iou = np.divide(common, either, out=np.zeros_like(common), where=common > 0)
        self._columns["image"].append(np.full(len(rows), self._place[scene.image.image_id]))
        self._columns["category"].append(categories)
        self._columns["score"].append(scores)
        self._columns["pairs"].append(np.bincount(detection, minlength=len(rows)))
        self._sets["area"].append(area)
        self._sets["iou"].append(iou)

    def at_each(self) -> Sequence[SegmentationAP]:
        """Match all images at once."""
        columns = {name: np.concatenate(parts) if parts else np.zeros(0, int) for name, parts in self._columns.items()}
        pairs = columns.pop("pairs")
        sets = {name: np.concatenate([self._sets["area"][0], *parts], axis=1) for name, parts in self._sets.items()}
        found = match(
            self._objects, Detections(first=pairs.cumsum() - pairs, **columns, **sets), np.array(SEGM_THRESHOLDS)
        )
        return [SegmentationAP(one, metrics) for one, metrics in zip(found, accumulate(found), strict=True)]


# Name, as `metrics=[...]` lists it -> class; all are computed unless `metrics` says which.
METRICS: dict[str, str] = {
    "segm": "hetexp.experiments.detection.metrics:Segmentation",
    "ground_truth": "hetexp.experiments.detection.ground_truth:GroundTruth",
}
# Further ones, computed where `metrics` names them.
FURTHER: dict[str, str] = {"masks": "hetexp.experiments.detection.fidelity:MaskFidelity"}
# Functions of (run, record of items) that run the model again, likewise.
PASSES: dict[str, str] = {
    "deletion": "hetexp.experiments.detection.deletion:deletion",
    "randomisation": "hetexp.experiments.detection.randomisation:randomisation",
    "rule_time": "hetexp.experiments.detection.rule_time:rule_time",
}


def get_metric(name: str) -> type[DetectionMetric | SweptMetric]:
    """The metric of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    known = METRICS | FURTHER
    if name not in known:
        raise ConfigError(f"unknown metric {name!r}. Available for detectors: {', '.join((*known, *PASSES))}")
    found: type[DetectionMetric | SweptMetric] = import_from(known[name])
    return found
