"""COCO evaluation with free IoU thresholds, through pycocotools' own COCOeval (nothing printed, nothing patched)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.errors import InputError

SEGM_THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(16))  # the paper's protocol: 0.20:0.05:0.95
BOX_THRESHOLDS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))  # COCO's own: 0.50:0.05:0.95

_AREAS = ("", "_small", "_medium", "_large")  # COCOeval's order: all, small, medium, large


def evaluate_segm(
    coco_gt: COCO,
    detections: Iterable[dict[str, Any]],
    image_ids: Iterable[int],
    iou_thresholds: Sequence[float] = SEGM_THRESHOLDS,
) -> dict[str, float | None]:
    """Average precision and recall of instance masks over `image_ids`.

    Parameters
    ----------
    coco_gt
        Ground truth; it is left as it is.
    detections
        Dicts with image_id, category_id, score and segmentation (run-length encoding of the image's size; an empty
        mask is a valid detection). One whose category_id is None (the model's label is no category of this data) is
        left out. Other keys are ignored, the list is left as it is.
    image_ids
        The images that count, with or without annotations and detections.

    Returns
    -------
    AP, AP_small, AP_medium, AP_large, AR, AR_small, AR_medium, AR_large (at most 100 detections per image) and AP at
    the first threshold (``AP20``), as fractions; None where an area holds no ground truth. Raises InputError on a
    detection of an unlisted image, an unknown category, a score that is not finite or a mask of another size.
    """
    ids = _known_images(coco_gt, image_ids)
    checked = _checked(coco_gt, detections, ids, "segmentation")
    for detection in checked:
        code, image = detection["segmentation"], coco_gt.imgs[detection["image_id"]]
        size = [image["height"], image["width"]]
        if list(code["size"]) != size:
            raise InputError(
                f"a detection's mask on image {image['id']} is {list(code['size'])} (height, width), but the image is "
                f"{size}: masks must have the size of the original image"
            )
        detection["area"] = float(rle.area(code))
        detection["bbox"] = rle.toBbox(code).tolist()
    return _evaluate(coco_gt, checked, ids, "segm", iou_thresholds)


def evaluate_boxes(
    coco_gt: COCO,
    detections: Iterable[dict[str, Any]],
    image_ids: Iterable[int],
    iou_thresholds: Sequence[float] = BOX_THRESHOLDS,
) -> dict[str, float | None]:
    """Average precision and recall of boxes; as `evaluate_segm`, with bbox = [x, y, width, height] in pixels."""
    ids = _known_images(coco_gt, image_ids)
    checked = _checked(coco_gt, detections, ids, "bbox")
    for detection in checked:
        box = [float(side) for side in detection["bbox"]]
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise InputError(
                f"a detection's box on image {detection['image_id']} is {box}, expected finite "
                "[x, y, width, height] with width, height >= 0"
            )
        detection["area"] = box[2] * box[3]
        detection["bbox"] = box
    return _evaluate(coco_gt, checked, ids, "bbox", iou_thresholds)


def _known_images(coco_gt: COCO, image_ids: Iterable[int]) -> list[int]:
    ids = sorted(set(image_ids))
    unknown = [i for i in ids if i not in coco_gt.imgs]
    if unknown:
        raise InputError(f"image ids {unknown[:5]} are not in the annotation file ({len(unknown)} of {len(ids)})")
    return ids


def _checked(coco_gt: COCO, detections: Iterable[dict[str, Any]], ids: list[int], shape: str) -> list[dict[str, Any]]:
    """Fresh records with only the keys that count: pycocotools would take areas from the box of a mask that has one."""
    wanted = set(ids)
    checked = []
    for number, detection in enumerate(detections, start=1):
        missing = [key for key in ("image_id", "category_id", "score", shape) if key not in detection]
        if missing:
            raise InputError(f"detection {number} lacks {', '.join(missing)}; it has {', '.join(detection)}")
        if detection["category_id"] is None:
            continue
        if detection["image_id"] not in wanted:
            raise InputError(
                f"detection {number} is of image {detection['image_id']}, which is not among the {len(ids)} evaluated"
            )
        if detection["category_id"] not in coco_gt.cats:
            raise InputError(
                f"detection {number} has category id {detection['category_id']}, which the annotations do not know: "
                "map labels to categories by name"
            )
        if not math.isfinite(detection["score"]):
            raise InputError(f"detection {number} on image {detection['image_id']} has score {detection['score']}")
        checked.append(
            {
                "id": number,
                "image_id": detection["image_id"],
                "category_id": detection["category_id"],
                "score": float(detection["score"]),
                "iscrowd": 0,
                shape: detection[shape],
            }
        )
    return checked


def _evaluate(
    coco_gt: COCO, detections: list[dict[str, Any]], ids: list[int], kind: str, iou_thresholds: Sequence[float]
) -> dict[str, float | None]:
    thresholds = np.asarray(iou_thresholds, dtype=float)
    if thresholds.ndim != 1 or len(thresholds) == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise InputError(f"IoU thresholds must be numbers in (0, 1], got {list(iou_thresholds)}")
    # COCOeval writes into the annotations (polygons become run lengths), so it gets shallow copies of those it needs.
    # Without images pycocotools would take all annotations there are.
    truth = [dict(annotation) for annotation in coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=ids))] if ids else []
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(_as_coco(coco_gt, ids, truth), _as_coco(coco_gt, ids, detections), kind)
        run.params.iouThrs = thresholds
        run.params.maxDets = [100]
        # One category at a time, or what COCOeval keeps of all images would grow to hundreds of megabytes.
        # Categories without ground truth never count (COCO's -1), nor do images that know nothing of a category:
        # leaving them out changes no number and saves most of the time.
        knowing: dict[int, set[int]] = {annotation["category_id"]: set() for annotation in truth}
        for record in (*truth, *detections):
            if record["category_id"] in knowing:
                knowing[record["category_id"]].add(record["image_id"])
        precisions, recalls = [], []
        for category, image_ids in sorted(knowing.items()):
            run.params.catIds = [category]
            run.params.imgIds = sorted(image_ids)
            run.evaluate()
            run.accumulate()
            precisions.append(run.eval["precision"][..., -1])
            recalls.append(run.eval["recall"][..., -1])
    first = f"AP{100 * thresholds[0]:g}"
    if not truth:
        return dict.fromkeys([*(m + area for m in ("AP", "AR") for area in _AREAS), first], None)
    precision = np.concatenate(precisions, axis=2)  # [thresholds, recalls, categories, areas], at most 100 detections
    recall = np.concatenate(recalls, axis=1)  # [thresholds, categories, areas]
    result = {f"AP{area}": _mean(precision[..., i]) for i, area in enumerate(_AREAS)}
    result |= {f"AR{area}": _mean(recall[..., i]) for i, area in enumerate(_AREAS)}
    result[first] = _mean(precision[0, :, :, 0])
    return result


def _as_coco(coco_gt: COCO, ids: list[int], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [coco_gt.imgs[i] for i in ids],
        "categories": list(coco_gt.cats.values()),
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]  # COCO's -1: no ground truth
    return float(counted.mean()) if counted.size else None
