"""pycocotools' own COCOeval on one category and a block of images at a time, nothing printed."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.evaluation.matches import AREAS


@dataclass(frozen=True)
class Block:
    """What COCOeval found on some images.

    Attributes:
        of_area: per area what its `accumulate` reads of one image, joined.
        images: image of each detection.
        object_images: image of each object, in an order that is the same for all areas.
        object_ignored: [areas, objects], in that order.
    """

    of_area: list[dict[str, np.ndarray]]
    images: np.ndarray
    object_images: np.ndarray
    object_ignored: np.ndarray


def match(ground_truth: COCO, found: COCO, kind: str, thresholds: np.ndarray) -> Block:
    """COCOeval's matches on a block of images."""
    run = _coco_eval(ground_truth, found, kind, thresholds)
    with contextlib.redirect_stdout(io.StringIO()):
        run.evaluate()
    n = len(run.params.imgIds)
    joined, ignored = [], []
    for area in range(len(AREAS)):
        images = [image for image in run.evalImgs[area * n : (area + 1) * n] if image is not None]
        joined.append(
            {
                "dtScores": np.concatenate([image["dtScores"] for image in images]),
                "dtMatches": np.concatenate([image["dtMatches"] for image in images], axis=1).astype(bool),
                "dtIgnore": np.concatenate([image["dtIgnore"] for image in images], axis=1).astype(bool),
                "gtIgnore": np.concatenate([image["gtIgnore"] for image in images]).astype(bool),
            }
        )
        # COCOeval sorts objects anew for each area: those that count come first
        order = [np.argsort(image["gtIds"], kind="stable") for image in images]
        ignored.append(np.concatenate([np.asarray(im["gtIgnore"])[o] for im, o in zip(images, order, strict=True)]))
    ids = [image["image_id"] for image in images]
    return Block(
        joined,
        np.repeat(ids, [len(image["dtIds"]) for image in images]),
        np.repeat(ids, [len(image["gtIds"]) for image in images]),
        np.stack(ignored).astype(bool),
    )


# precision [thresholds, recalls, categories, areas] and recall [thresholds, categories, areas]
Accumulated = tuple[np.ndarray, np.ndarray]


def accumulate(blocks: list[list[dict[str, np.ndarray]]], kind: str, thresholds: np.ndarray) -> Accumulated:
    """COCOeval's precision and recall of one category, a block standing for an image."""
    run = _coco_eval(None, None, kind, thresholds)
    run.params.imgIds = list(range(len(blocks)))
    run.params.catIds = [0]
    run.params.maxDets = [sys.maxsize]  # already cut to 100 of each image
    run.evalImgs = [block[area] for area in range(len(AREAS)) for block in blocks]
    run._paramsEval = run.params
    with contextlib.redirect_stdout(io.StringIO()):
        run.accumulate()
    return run.eval["precision"][..., -1], run.eval["recall"][..., -1]


def mean_metrics(counted: list[Accumulated], thresholds: np.ndarray) -> dict[str, float | None]:
    """COCO's means over all categories."""
    first = f"AP{100 * thresholds[0]:g}"
    if not counted:
        return dict.fromkeys([*(m + area for m in ("AP", "AR") for area in AREAS), first], None)
    precision = np.concatenate([one for one, _ in counted], axis=2)
    recall = np.concatenate([one for _, one in counted], axis=1)
    result = {f"AP{area}": _mean(precision[..., i]) for i, area in enumerate(AREAS)}
    result |= {f"AR{area}": _mean(recall[..., i]) for i, area in enumerate(AREAS)}
    result[first] = _mean(precision[0, :, :, 0])
    return result


def _coco_eval(ground_truth: COCO | None, found: COCO | None, kind: str, thresholds: np.ndarray) -> COCOeval:
    run = COCOeval(ground_truth, found, kind)
    run.params.iouThrs = thresholds
    run.params.maxDets = [100]
    return run


def as_coco(coco_gt: COCO, images: list[int], category: int, annotations: list[dict[str, Any]]) -> COCO:
    """Annotations of one category on some images as pycocotools' object."""
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
