"""COCO's means over categories of what is matched, number by number as pycocotools' COCOeval accumulates them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hetexp.evaluation.curves import RECALLS, distinct_rows
from hetexp.evaluation.matches import AREAS, Matches

Floats = NDArray[np.float64]


def accumulate(sets: Sequence[Matches]) -> list[dict[str, float | None]]:
    """COCO's metrics of one or more sets of masks of the same detections.

    Returns:
        per set AP, AP_small, AP_medium, AP_large, AR, AR_small, AR_medium, AR_large and AP at the first threshold
        (``AP20``), as fractions; None where an area holds no object.
    """
    first = sets[0]
    categories = np.unique(first.object_category)
    shape = (len(sets), len(first.thresholds))
    precision = np.full((len(AREAS), *shape, len(RECALLS), len(categories)), -1.0)
    recall = np.full((len(AREAS), *shape, len(categories)), -1.0)
    for k, category in enumerate(categories):
        of_category = np.flatnonzero(first.category == category)
        order = of_category[np.argsort(-first.score[of_category], kind="stable")]
        objects = first.object_category == category
        for area in range(len(AREAS)):
            counted = int((~first.object_ignored[area, objects]).sum())
            if counted:
                matched = np.stack([one.matched[area][:, order] for one in sets])
                ignored = np.stack([one.ignored[area][:, order] for one in sets])
                precision[area, ..., k], recall[area, ..., k] = _curves(matched, ~ignored, counted)
    return [
        {f"AP{name}": _mean(precision[area, n]) for area, name in enumerate(AREAS)}
        | {f"AR{name}": _mean(recall[area, n]) for area, name in enumerate(AREAS)}
        | {f"AP{100 * first.thresholds[0]:g}": _mean(precision[0, n, 0])}
        for n in range(len(sets))
    ]


def _curves(matched: NDArray[np.bool_], counts: NDArray[np.bool_], objects: int) -> tuple[Floats, Floats]:
    """Interpolated precision at COCO's recalls [..., R] and the recall reached [...] of detections [..., D]."""
    *shape, number = matched.shape
    if not number:
        return np.zeros((*shape, len(RECALLS))), np.zeros(shape)
    rows, which = distinct_rows(np.concatenate([matched & counts, counts], axis=-1).reshape(-1, 2 * number))
    matched, counts = np.split(rows, 2, axis=1)
    true = matched.cumsum(axis=1)
    precision = true / (counts.cumsum(axis=1) + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    wanted = np.searchsorted(np.arange(objects + 1) / objects, RECALLS, side="left")  # hits that a recall asks for
    row = np.arange(len(true))[:, None] * (objects + 1)  # one rising sequence of all rows
    place = np.searchsorted((true + row).reshape(-1), (wanted + row).reshape(-1), side="left").reshape(len(true), -1)
    reached = wanted <= true[:, -1:]
    found = np.where(reached, envelope.reshape(-1)[np.where(reached, place, 0)], 0.0)
    return found[which].reshape(*shape, -1), (true[:, -1] / objects)[which].reshape(shape)


def _mean(values: Floats) -> float | None:
    counted = values[values > -1]  # COCO's -1: no object
    return float(counted.mean()) if counted.size else None
