"""Precision and recall of weighted detections, for many resamples and many ways of being matched at once.

What is looked at are the hits alone: between two of them precision can only fall, so that its envelope and the steps of
recall lie on hits. Arrays run over hits first and resamples last: cumulative sums and maxima then add whole rows.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RECALLS = np.linspace(0.0, 1.0, 101)  # COCOeval's recThrs
_VALUES = 100_000  # hits x rows x resamples at once: a few arrays that fit a cache


def curves(
    weights: NDArray[np.int32], hit: Bools, counted: Bools, begun: Bools, number: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Mean interpolated precision over recall, and the recall reached, both [B, R].

    Args:
        weights: how often each detection stands in each resample, best score first [D, B].
        hit: which detections match an object that counts [R, D].
        counted: which detections count, hits among them [R, D].
        begun: where recall 0 is reached, by a miss, before the first hit: a summand of its own [R].
        number: of objects [B].
    """
    rows, which = _distinct(np.concatenate([hit, counted, begun[:, None]], axis=1))
    hit, counted, begun = rows[:, : hit.shape[1]], rows[:, hit.shape[1] : -1], rows[:, -1]
    found = np.zeros((2, len(rows), len(number)))
    hits = hit.sum(axis=1)
    order = np.argsort(hits, kind="stable")[np.count_nonzero(hits == 0) :]
    if len(order):
        objects = np.maximum(number, 1)
        lookup = _Recalls(objects, int(weights[hit.any(axis=0)].sum(axis=0).max()))
    while len(order):
        most = int(hits[order[-1]])
        alike = order[hits[order] > 0.7 * most - 2]  # rows of a similar number of hits
        order = order[: len(order) - len(alike)]
        # hits of each row [H + 1, rows], filled up with a detection that stands nowhere
        nowhere = hit.shape[1]
        lead = np.where(begun[alike], -1, nowhere)
        place = np.sort(np.c_[lead, np.where(hit[alike], np.arange(nowhere), nowhere)], axis=1)[:, : most + 1].T
        place = np.where(place < 0, nowhere, place)
        ways, way = _distinct(counted[alike])
        step = max(1, _VALUES // max(place.size, ways.size))
        for start in range(0, len(number), step):
            part = slice(start, start + step)
            true = _cumulated(np.concatenate([weights[:, part], np.zeros_like(weights[:1, part])])[place])
            precision = true / (_taken(weights[:, part], ways)[place, way] + np.spacing(1))
            for later, earlier in zip(precision[:0:-1], precision[-2::-1], strict=True):
                np.maximum(earlier, later, out=earlier)
            reached = lookup.reached(true, part)
            reached[1:] -= reached[:-1].copy()
            found[0, alike, part] = np.add.reduce(precision * reached, axis=0) / len(RECALLS)
            found[1, alike, part] = true[-1] / objects[part]
    precision, recall = (np.ascontiguousarray(values.T)[:, which] for values in found)
    return precision, recall


class _Recalls:
    """How many of COCO's recalls a number of hits reaches, of a number of objects in each resample."""

    def __init__(self, number: NDArray[np.int64], most: int) -> None:
        numbers, which = np.unique(number, return_inverse=True)
        table = np.searchsorted(RECALLS, np.arange(most + 1) / numbers[:, None], side="right")
        self._table, self._first = table.reshape(-1).astype(np.float64), which.reshape(-1) * (most + 1)

    def reached(self, true: NDArray[np.int32], part: slice) -> Floats:
        """Recalls up to each number of hits [..., B]."""
        return self._table[true + self._first[part]]


def _taken(weights: NDArray[np.int32], ways: Bools) -> NDArray[np.int32]:
    """Detections that count up to each [D + 1, ways, B]; so many at the last that nothing is precise there."""
    taken = np.empty((len(weights) + 1, len(ways), weights.shape[1]), dtype=np.int32)
    np.multiply(weights[:, None], ways.T[:, :, None], out=taken[:-1])
    _cumulated(taken[:-1])
    taken[-1] = np.iinfo(np.int32).max
    return taken


def _cumulated(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Cumulative sum along the first axis in place, row by row: many times faster than numpy's column by column."""
    for earlier, later in itertools.pairwise(values):
        later += earlier
    return values


def _distinct(rows: Bools) -> tuple[Bools, NDArray[np.int64]]:
    """Distinct rows, and which of them each row is; much faster than `numpy.unique` along an axis."""
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(row.tobytes(), len(numbers)) for row in np.packbits(rows, axis=1)]
    _, first = np.unique(which, return_index=True)
    return rows[first], np.array(which, dtype=np.int64)
