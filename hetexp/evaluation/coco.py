"""COCO's metrics with free IoU thresholds, matched and accumulated by pycocotools' own COCOeval (nothing printed)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from hetexp.errors import InputError
from hetexp.evaluation.cocoeval import Accumulated, Block, accumulate, as_coco, match, mean_metrics
from hetexp.evaluation.matches import AREAS, Matches

SEGM_THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(16))  # the paper's (Section 5.1): 0.20:0.05:0.95
BOX_THRESHOLDS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))  # COCO's own: 0.50:0.05:0.95

_BLOCK = 250  # images that pycocotools holds records of at a time


class CocoScorer(ABC):
    """COCO's metrics of detections that come one by one, kept in a fraction of the room of pycocotools' records."""

    kind: ClassVar[str]  # pycocotools' name of the task
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
        self._found: dict[int, dict[int, list[tuple[int, float, Any]]]] = {}  # by category, image: number, score, form
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
        self._found.setdefault(category, {}).setdefault(image, []).append((self._number, float(score), form))

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
            ground_truth: dict[int, dict[int, list[dict[str, Any]]]] = {}  # by category and image
            for image in self.image_ids:
                for annotation in self.coco_gt.imgToAnns.get(image, ()):
                    ground_truth.setdefault(annotation["category_id"], {}).setdefault(image, []).append(annotation)
            # One category at a time, or pycocotools' records would grow to hundreds of megabytes. Categories without
            # ground truth never count (COCO's -1): leaving them out changes no number and saves most of the time.
            counted: list[Accumulated] = []
            blocks: list[tuple[int, Block]] = []
            for category in sorted(ground_truth):
                of_category = self._matched_blocks(category, ground_truth[category])
                counted.append(accumulate([b.of_area for b in of_category], self.kind, self.thresholds))
                blocks += [(category, block) for block in of_category]
            self._evaluated = mean_metrics(counted, self.thresholds), self._joined(blocks)
        return self._evaluated

    def _matched_blocks(self, category: int, annotations: dict[int, list[dict[str, Any]]]) -> list[Block]:
        """What COCOeval finds of one category at most 100 detections per image, some images at a time."""
        records = self._found.get(category, {})
        images = sorted(annotations.keys() | records.keys())  # others know nothing of the category
        blocks = []
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            made = [
                # without other keys: pycocotools would take areas from the box of a mask that has one
                {"id": n, "image_id": i, "category_id": category, "score": score, "iscrowd": 0}
                | self._expand(form, self.coco_gt.imgs[i])
                for i in block
                for n, score, form in records.get(i, ())
            ]
            # COCOeval writes into the annotations
            copies = [dict(annotation) for i in block for annotation in annotations.get(i, ())]
            known, given = (as_coco(self.coco_gt, block, category, part) for part in (copies, made))
            blocks.append(match(known, given, self.kind, self.thresholds))
        return blocks

    def _joined(self, blocks: list[tuple[int, Block]]) -> Matches:
        """The matches of all categories."""

        def along(pick: Callable[[Block], np.ndarray], empty: tuple[int, ...], kind: Any) -> np.ndarray:
            parts = [pick(block) for _, block in blocks]
            return np.concatenate(parts, axis=-1).astype(kind) if parts else np.zeros(empty, kind)

        def by_area(key: str) -> Callable[[Block], np.ndarray]:
            return lambda block: np.stack([area[key] for area in block.of_area])

        of_all, shape = np.array(self.image_ids, dtype=np.int64), (len(AREAS), len(self.thresholds), 0)
        categories = [category for category, _ in blocks]
        return Matches(
            images=of_all,
            thresholds=self.thresholds,
            image=np.searchsorted(of_all, along(lambda b: b.images, (0,), np.int64)),
            category=np.repeat(np.array(categories, dtype=np.int64), [len(b.images) for _, b in blocks]),
            score=along(lambda b: b.of_area[0]["dtScores"], (0,), np.float64),
            matched=along(by_area("dtMatches"), shape, np.bool_),
            ignored=along(by_area("dtIgnore"), shape, np.bool_),
            object_image=np.searchsorted(of_all, along(lambda b: b.object_images, (0,), np.int64)),
            object_category=np.repeat(np.array(categories, dtype=np.int64), [len(b.object_images) for _, b in blocks]),
            object_ignored=along(lambda b: b.object_ignored, (len(AREAS), 0), np.bool_),
        )

    @abstractmethod
    def _compact(self, form: Any, image: dict[str, Any]) -> Any:
        """What is kept of a detection's mask or box on an image, checked."""

    @abstractmethod
    def _expand(self, form: Any, image: dict[str, Any]) -> dict[str, Any]:
        """What pycocotools asks of a detection's mask or box, from what was kept."""


class SegmentationScorer(CocoScorer):
    """COCO's metrics of instance masks.

    A detection's ``segmentation`` is a run-length encoding of the original image's size; an empty mask is a valid one.
    """

    kind, form_key = "segm", "segmentation"

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
        code = {"size": [image["height"], image["width"]], "counts": form}
        return {"segmentation": code, "area": float(rle.area(code))}


class BoxScorer(CocoScorer):
    """COCO's metrics of boxes; a detection's ``bbox`` is [x, y, width, height] in pixels."""

    kind, form_key = "bbox", "bbox"

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

    def _expand(self, form: list[float], image: dict[str, Any]) -> dict[str, Any]:
        return {"bbox": form, "area": form[2] * form[3]}


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
