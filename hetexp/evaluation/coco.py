"""COCO's metrics with free IoU thresholds, matched and accumulated by pycocotools' own COCOeval (nothing printed)."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.errors import InputError

SEGM_THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(16))  # the paper's (Section 5.1): 0.20:0.05:0.95
BOX_THRESHOLDS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))  # COCO's own: 0.50:0.05:0.95

_BLOCK = 250  # images that pycocotools holds records of at a time
_AREAS = ("", "_small", "_medium", "_large")  # COCOeval's order: all, small, medium, large


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
        ground_truth: dict[int, dict[int, list[dict[str, Any]]]] = {}  # by category and image
        for image in self.image_ids:
            for annotation in self.coco_gt.imgToAnns.get(image, ()):
                ground_truth.setdefault(annotation["category_id"], {}).setdefault(image, []).append(annotation)
        # One category at a time, or pycocotools' records would grow to hundreds of megabytes. Categories without
        # ground truth never count (COCO's -1): leaving them out changes no number and saves most of the time.
        counted = [self._category(category, ground_truth[category]) for category in sorted(ground_truth)]
        first = f"AP{100 * self.thresholds[0]:g}"
        if not counted:
            return dict.fromkeys([*(m + area for m in ("AP", "AR") for area in _AREAS), first], None)
        precision = np.concatenate([one for one, _ in counted], axis=2)  # [thresholds, recalls, categories, areas]
        recall = np.concatenate([one for _, one in counted], axis=1)  # [thresholds, categories, areas]
        result = {f"AP{area}": _mean(precision[..., i]) for i, area in enumerate(_AREAS)}
        result |= {f"AR{area}": _mean(recall[..., i]) for i, area in enumerate(_AREAS)}
        result[first] = _mean(precision[0, :, :, 0])
        return result

    def _category(self, category: int, annotations: dict[int, list[dict[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
        """COCOeval's precision and recall of one category at most 100 detections per image, some images at a time."""
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
            known, given = (_as_coco(self.coco_gt, block, category, part) for part in (copies, made))
            blocks.append(_matched(known, given, self.kind, self.thresholds))
        counted = _accumulated(blocks, self.kind, self.thresholds)
        return counted["precision"][..., -1], counted["recall"][..., -1]

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


def _matched(ground_truth: COCO, found: COCO, kind: str, thresholds: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Per area what COCOeval found on a block of images, joined to what its `accumulate` reads of one image."""
    run = _coco_eval(ground_truth, found, kind, thresholds)
    with contextlib.redirect_stdout(io.StringIO()):
        run.evaluate()
    joined = []
    for area in range(len(_AREAS)):
        n = len(run.params.imgIds)
        images = [image for image in run.evalImgs[area * n : (area + 1) * n] if image is not None]
        joined.append(
            {
                "dtScores": np.concatenate([image["dtScores"] for image in images]),
                "dtMatches": np.concatenate([image["dtMatches"] for image in images], axis=1).astype(bool),
                "dtIgnore": np.concatenate([image["dtIgnore"] for image in images], axis=1),
                "gtIgnore": np.concatenate([image["gtIgnore"] for image in images]),
            }
        )
    return joined


def _accumulated(blocks: list[list[dict[str, np.ndarray]]], kind: str, thresholds: np.ndarray) -> dict[str, Any]:
    """COCOeval's precision and recall of one category, a block standing for an image."""
    run = _coco_eval(None, None, kind, thresholds)
    run.params.imgIds = list(range(len(blocks)))
    run.params.catIds = [0]
    run.params.maxDets = [sys.maxsize]  # already cut to 100 of each image
    run.evalImgs = [block[area] for area in range(len(_AREAS)) for block in blocks]
    run._paramsEval = run.params
    with contextlib.redirect_stdout(io.StringIO()):
        run.accumulate()
    return run.eval


def _coco_eval(ground_truth: COCO | None, found: COCO | None, kind: str, thresholds: np.ndarray) -> COCOeval:
    run = COCOeval(ground_truth, found, kind)
    run.params.iouThrs = thresholds
    run.params.maxDets = [100]
    return run


def _as_coco(coco_gt: COCO, images: list[int], category: int, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [coco_gt.imgs[i] for i in images],
        "categories": [coco_gt.cats[category]],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]  # COCO's -1: no ground truth
    return float(counted.mean()) if counted.size else None
