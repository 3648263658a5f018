"""COCO's metrics with free IoU thresholds of detections that come one by one: the numbers of pycocotools' COCOeval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from hetexp.errors import InputError
from hetexp.evaluation.accumulate import accumulate
from hetexp.evaluation.matches import Matches
from hetexp.evaluation.matching import Detections, Objects, match

SEGM_THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(16))  # the paper's (Section 5.1): 0.20:0.05:0.95
BOX_THRESHOLDS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))  # COCO's own: 0.50:0.05:0.95


class CocoScorer(ABC):
    """COCO's metrics of detections that come one by one, kept in a fraction of the room of pycocotools' records."""

    form_key: ClassVar[str]  # where a detection holds its mask or box

    def __init__(self, coco_gt: COCO, image_ids: Iterable[int], iou_thresholds: Sequence[float]) -> None:
        """Start without detections.

        Args:
            coco_gt: ground truth; it is left as it is.
            image_ids: the images that count, with or without annotations and detections.
            iou_thresholds: each in (0, 1].

        Raises:
            InputError: on an image that the ground truth lacks, and on thresholds that are none.
        """
        self.coco_gt = coco_gt
        self.image_ids = _known_images(coco_gt, image_ids)
        self.thresholds = _checked_thresholds(iou_thresholds)
        self._wanted = set(self.image_ids)
        self._number = 0  # of the last detection
        self._found: list[tuple[int, int, float, Any]] = []  # image, category, score, form
        self._evaluated: tuple[dict[str, float | None], Matches] | None = None  # of the detections so far

    def add(self, detection: Mapping[str, Any]) -> None:
        """Take one more detection.

        Args:
            detection: image_id, category_id, score and segmentation or bbox. One whose category_id is None (the model's
                label is no category of this data) is left out. Other keys are ignored, the mapping is left as it is.

        Raises:
            InputError: on missing keys, an image that does not count, an unknown category, a score that is not finite,
                and a mask or box that does not fit the image.
        """
        self._number += 1
        self._evaluated = None
        missing = [key for key in ("image_id", "category_id", "score", self.form_key) if key not in detection]
        if missing:
            raise InputError(f"detection {self._number} lacks {', '.join(missing)}; it has {', '.join(detection)}")
        image, category, score = detection["image_id"], detection["category_id"], detection["score"]
        if category is None:
            return
        if image not in self._wanted:
            raise InputError(
                f"detection {self._number} is of image {image}, which is not among the {len(self.image_ids)} evaluated"
            )
        if category not in self.coco_gt.cats:
            raise InputError(
                f"detection {self._number} has category id {category}, which the annotations do not know: "
                "map labels to categories by name"
            )
        if not math.isfinite(score):
            raise InputError(f"detection {self._number} on image {image} has score {score}")
        form = self._compact(detection[self.form_key], self.coco_gt.imgs[image])
        self._found.append((image, category, float(score), form))

    def metrics(self) -> dict[str, float | None]:
        """COCO's metrics of all detections so far.

        Returns:
            AP, AP_small, AP_medium, AP_large, AR, AR_small, AR_medium, AR_large (at most 100 detections per image) and
            AP at the first threshold (``AP20``), as fractions; None where an area holds no ground truth.
        """
        return self._evaluate()[0]

    def matches(self) -> Matches:
        """Which detections match at which threshold, for metrics of resampled images; see `Matches` on its size."""
        return self._evaluate()[1]

    def _evaluate(self) -> tuple[dict[str, float | None], Matches]:
        if self._evaluated is None:
            objects = Objects.of(self.coco_gt, self.image_ids)
            matches = match(objects, self._detections(objects), self.thresholds)
            self._evaluated = accumulate(matches)[0], matches[0]
        return self._evaluated

    def _detections(self, objects: Objects) -> Detections:
        of_group: dict[tuple[int, int], list[int]] = {}
        for number, key in enumerate(zip(objects.image.tolist(), objects.category.tolist(), strict=True)):
            of_group.setdefault(key, []).append(number)
        place = {image: number for number, image in enumerate(self.image_ids)}
        keys = [(place[image], category) for image, category, _, _ in self._found]
        sizes = np.array([len(of_group.get(key, ())) for key in keys], dtype=np.int64)
        first = sizes.cumsum() - sizes
        iou, area = np.zeros(int(sizes.sum())), np.zeros(len(keys))
        rows: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        for key, found in rows.items():
            image = self.coco_gt.imgs[self.image_ids[key[0]]]
            forms = [self._expand(self._found[row][3], image) for row in found]
            area[found] = [self._area(form) for form in forms]
            known = [objects.annotations[number] for number in of_group.get(key, ())]
            if known:
                crowd = [int(annotation.get("iscrowd", 0)) for annotation in known]
                theirs = [self._object(annotation) for annotation in known]
                iou[first[found][:, None] + np.arange(len(known))] = rle.iou(forms, theirs, crowd)
        return Detections(
            image=np.array([image for image, _ in keys], dtype=np.int64),
            category=np.array([category for _, category in keys], dtype=np.int64),
            score=np.array([score for _, _, score, _ in self._found], dtype=np.float64),
            area=area[None],
            iou=iou[None],
            first=first,
        )

    @abstractmethod
    def _compact(self, form: Any, image: dict[str, Any]) -> Any:
        """What is kept of a detection's mask or box on an image, checked."""

    @abstractmethod
    def _expand(self, form: Any, image: dict[str, Any]) -> Any:
        """A detection's mask or box as pycocotools takes it, from what was kept."""

    @abstractmethod
    def _object(self, annotation: Mapping[str, Any]) -> Any:
        """An object's mask or box as pycocotools takes it."""

    @abstractmethod
    def _area(self, form: Any) -> float:
        """Pixels of a mask or box."""


class SegmentationScorer(CocoScorer):
    """COCO's metrics of instance masks.

    A detection's ``segmentation`` is a run-length encoding of the original image's size; an empty mask is a valid one.
    """

    form_key = "segmentation"

    def __init__(
        self, coco_gt: COCO, image_ids: Iterable[int], iou_thresholds: Sequence[float] = SEGM_THRESHOLDS
    ) -> None:
        super().__init__(coco_gt, image_ids, iou_thresholds)

    def _compact(self, form: Mapping[str, Any], image: dict[str, Any]) -> Any:
        size = [image["height"], image["width"]]
        if list(form["size"]) != size:
            raise InputError(
                f"a detection's mask on image {image['id']} is {list(form['size'])} (height, width), but the image is "
                f"{size}: masks must have the size of the original image"
            )
        return form["counts"]

    def _expand(self, form: Any, image: dict[str, Any]) -> dict[str, Any]:
        return {"size": [image["height"], image["width"]], "counts": form}

    def _object(self, annotation: Mapping[str, Any]) -> Any:
        return self.coco_gt.annToRLE(annotation)

    def _area(self, form: Any) -> float:
        return float(rle.area(form))


class BoxScorer(CocoScorer):
    """COCO's metrics of boxes; a detection's ``bbox`` is [x, y, width, height] in pixels."""

    form_key = "bbox"

    def __init__(
        self, coco_gt: COCO, image_ids: Iterable[int], iou_thresholds: Sequence[float] = BOX_THRESHOLDS
    ) -> None:
        super().__init__(coco_gt, image_ids, iou_thresholds)

    def _compact(self, form: Sequence[float], image: dict[str, Any]) -> list[float]:
        box = [float(side) for side in form]
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise InputError(
                f"a detection's box on image {image['id']} is {box}, expected finite "
                "[x, y, width, height] with width, height >= 0"
            )
        return box

    def _expand(self, form: list[float], image: dict[str, Any]) -> list[float]:
        return form

    def _object(self, annotation: Mapping[str, Any]) -> Any:
        return annotation["bbox"]

    def _area(self, form: list[float]) -> float:
        return form[2] * form[3]


def evaluate_segm(
    coco_gt: COCO,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Iterable[int],
    iou_thresholds: Sequence[float] = SEGM_THRESHOLDS,
) -> dict[str, float | None]:
    """Metrics of instance masks over `image_ids`, all at once; see `SegmentationScorer`."""
    return _metrics(SegmentationScorer(coco_gt, image_ids, iou_thresholds), detections)


def evaluate_boxes(
    coco_gt: COCO,
    detections: Iterable[Mapping[str, Any]],
    image_ids: Iterable[int],
    iou_thresholds: Sequence[float] = BOX_THRESHOLDS,
) -> dict[str, float | None]:
    """Metrics of boxes over `image_ids`, all at once; see `BoxScorer`."""
    return _metrics(BoxScorer(coco_gt, image_ids, iou_thresholds), detections)


def _metrics(scorer: CocoScorer, detections: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    for detection in detections:
        scorer.add(detection)
    return scorer.metrics()


def _known_images(coco_gt: COCO, image_ids: Iterable[int]) -> list[int]:
    ids = sorted(set(image_ids))
    unknown = [i for i in ids if i not in coco_gt.imgs]
    if unknown:
        raise InputError(f"image ids {unknown[:5]} are not in the annotation file ({len(unknown)} of {len(ids)})")
    return ids


def _checked_thresholds(iou_thresholds: Sequence[float]) -> np.ndarray:
    thresholds = np.asarray(iou_thresholds, dtype=float)
    if thresholds.ndim != 1 or len(thresholds) == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise InputError(f"IoU thresholds must be numbers in (0, 1], got {list(iou_thresholds)}")
    return thresholds
