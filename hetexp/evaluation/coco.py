"""COCO evaluation with free IoU thresholds, matched and accumulated by pycocotools' own COCOeval (nothing printed)."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.errors import InputError

SEGM_THRESHOLDS = tuple(round(0.20 + 0.05 * i, 2) for i in range(16))  # the paper's protocol: 0.20:0.05:0.95
BOX_THRESHOLDS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))  # COCO's own: 0.50:0.05:0.95

_BLOCK = 250  # images that pycocotools holds records of at a time
_Found = dict[int, dict[int, list[tuple[int, float, Any]]]]  # by category and image: number, score, mask or box

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
    found: _Found = {}
    for number, detection in _checked(coco_gt, detections, ids, "segmentation"):
        code, image = detection["segmentation"], coco_gt.imgs[detection["image_id"]]
        size = [image["height"], image["width"]]
        if list(code["size"]) != size:
            raise InputError(
                f"a detection's mask on image {image['id']} is {list(code['size'])} (height, width), but the image is "
                f"{size}: masks must have the size of the original image"
            )
        _keep(found, number, detection, code["counts"])

    def shape(counts: Any, image_id: int) -> dict[str, Any]:
        image = coco_gt.imgs[image_id]
        code = {"size": [image["height"], image["width"]], "counts": counts}
        return {"segmentation": code, "area": float(rle.area(code))}

    return _evaluate(coco_gt, found, shape, ids, "segm", iou_thresholds)


def evaluate_boxes(
    coco_gt: COCO,
    detections: Iterable[dict[str, Any]],
    image_ids: Iterable[int],
    iou_thresholds: Sequence[float] = BOX_THRESHOLDS,
) -> dict[str, float | None]:
    """Average precision and recall of boxes; as `evaluate_segm`, with bbox = [x, y, width, height] in pixels."""
    ids = _known_images(coco_gt, image_ids)
    found: _Found = {}
    for number, detection in _checked(coco_gt, detections, ids, "bbox"):
        box = [float(side) for side in detection["bbox"]]
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise InputError(
                f"a detection's box on image {detection['image_id']} is {box}, expected finite "
                "[x, y, width, height] with width, height >= 0"
            )
        _keep(found, number, detection, box)

    def shape(box: list[float], image_id: int) -> dict[str, Any]:
        return {"bbox": box, "area": box[2] * box[3]}

    return _evaluate(coco_gt, found, shape, ids, "bbox", iou_thresholds)


def _known_images(coco_gt: COCO, image_ids: Iterable[int]) -> list[int]:
    ids = sorted(set(image_ids))
    unknown = [i for i in ids if i not in coco_gt.imgs]
    if unknown:
        raise InputError(f"image ids {unknown[:5]} are not in the annotation file ({len(unknown)} of {len(ids)})")
    return ids


def _checked(
    coco_gt: COCO, detections: Iterable[dict[str, Any]], ids: list[int], shape: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The detections that count, with their number."""
    wanted = set(ids)
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
        yield number, detection


def _keep(found: _Found, number: int, detection: dict[str, Any], shape: Any) -> None:
    """Note a detection in a fraction of the room of the records that pycocotools works on."""
    images = found.setdefault(detection["category_id"], {})
    images.setdefault(detection["image_id"], []).append((number, float(detection["score"]), shape))


def _evaluate(
    coco_gt: COCO,
    found: _Found,
    shape: Callable[[Any, int], dict[str, Any]],
    ids: list[int],
    kind: str,
    iou_thresholds: Sequence[float],
) -> dict[str, float | None]:
    """COCOeval's figures; `shape` makes what pycocotools asks of a detection's mask or box on an image."""
    thresholds = np.asarray(iou_thresholds, dtype=float)
    if thresholds.ndim != 1 or len(thresholds) == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise InputError(f"IoU thresholds must be numbers in (0, 1], got {list(iou_thresholds)}")
    truth: dict[int, dict[int, list[dict[str, Any]]]] = {}  # by category and image
    for image in ids:
        for annotation in coco_gt.imgToAnns.get(image, ()):
            truth.setdefault(annotation["category_id"], {}).setdefault(image, []).append(annotation)
    precisions, recalls = [], []
    # One category at a time and some images at a time, or pycocotools' records would grow to hundreds of megabytes.
    # Categories without ground truth never count (COCO's -1), nor do images that know nothing of a category: leaving
    # them out changes no number and saves most of the time.
    for category in sorted(truth):
        annotations, records = truth[category], found.get(category, {})
        images = sorted(annotations.keys() | records.keys())
        blocks = []
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            made = [
                # without other keys: pycocotools would take areas from the box of a mask that has one
                {"id": n, "image_id": i, "category_id": category, "score": score, "iscrowd": 0, **shape(form, i)}
                for i in block
                for n, score, form in records.get(i, ())
            ]
            # COCOeval writes into the annotations
            copies = [dict(annotation) for i in block for annotation in annotations.get(i, ())]
            known, given = (_as_coco(coco_gt, block, category, part) for part in (copies, made))
            blocks.append(_matched(known, given, kind, thresholds))
        counted = _accumulated(blocks, kind, thresholds)
        precisions.append(counted["precision"][..., -1])
        recalls.append(counted["recall"][..., -1])
    first = f"AP{100 * thresholds[0]:g}"
    if not truth:
        return dict.fromkeys([*(m + area for m in ("AP", "AR") for area in _AREAS), first], None)
    precision = np.concatenate(precisions, axis=2)  # [thresholds, recalls, categories, areas], at most 100 detections
    recall = np.concatenate(recalls, axis=1)  # [thresholds, categories, areas]
    result = {f"AP{area}": _mean(precision[..., i]) for i, area in enumerate(_AREAS)}
    result |= {f"AR{area}": _mean(recall[..., i]) for i, area in enumerate(_AREAS)}
    result[first] = _mean(precision[0, :, :, 0])
    return result


def _matched(truth: COCO, found: COCO, kind: str, thresholds: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Per area what COCOeval found on a block of images, joined to what its `accumulate` reads of one image."""
    run = _coco_eval(truth, found, kind, thresholds)
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


def _coco_eval(truth: COCO | None, found: COCO | None, kind: str, thresholds: np.ndarray) -> COCOeval:
    run = COCOeval(truth, found, kind)
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
