"""Precision and recall of weighted detections, for many resamples and many ways of being matched.

What is looked at are the hits alone: between two of them precision can only fall, so that its envelope and the steps of
recall lie on hits. Along hits that no miss parts it can only rise, so that the envelope follows from the last hit of
each such run. Arrays run over hits first and resamples last: most operations then take whole rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RECALLS = np.linspace(0.0, 1.0, 101)  # COCOeval's recThrs
_VALUES = 200_000  # detections x resamples at once: a few arrays that fit a cache


def curves(
    weights: NDArray[np.integer], hit: Bools, counted: Bools, begun: Bools, number: Ints
) -> tuple[Floats, Floats]:
    """Mean interpolated precision over recall, and the recall reached, both [B, R].

    Summands are added in the order of the hits, so that a resample gives the same bits whatever others stand beside it;
    a single one would not, since numpy adds neighbours in memory in pairs.

    Args:
        weights: how often each detection stands in each resample, best score first [D, B], B > 1.
        hit: which detections match an object that counts [R, D].
        counted: which detections count, hits among them [R, D].
        begun: where recall 0 is reached, by a miss, before the first hit: a summand of its own [R].
        number: of objects [B].
    """
    rows, which = distinct_rows(np.concatenate([begun[:, None], hit, counted], axis=1))
    # where recall 0 is reached before, a first hit says so, which no resample holds
    hit, counted = rows[:, : len(weights) + 1], np.delete(rows, np.s_[1 : len(weights) + 1], axis=1)
    ways, way = distinct_rows(counted)
    of_way: list[list[tuple[int, _Hits]]] = [[] for _ in ways]
    for row, hits in enumerate(_hits(hit, counted)):
        if hit[row, 1:].any():
            of_way[way[row]].append((row, hits))
    precision, recall = np.zeros((2, len(rows), len(number)))
    for part in np.array_split(np.arange(len(number)), max(1, min(len(number) // 2, weights.size // _VALUES))):
        block = slice(part[0], part[-1] + 1)
        drawn = np.concatenate([np.zeros((1, len(part)), np.int32), weights[:, block]])
        objects = np.maximum(number[block], 1)
        recalls = _Recalls(objects, int(drawn[hit.any(axis=0)].sum(axis=0).max(initial=0)))
        for counts, alike in zip(ways, of_way, strict=True):
            taken = _running(np.add, drawn[counts]) if alike else drawn
            for row, hits in alike:
                true = drawn.take(hits.place, axis=0)
                true[0] += recalls.first
                reached = recalls.table.take(_running(np.add, true))
                ends = true.take(hits.last, axis=0) - recalls.first
                envelope = _running(np.maximum, ends / (taken.take(hits.rank, axis=0) + np.spacing(1)))
                summands = envelope.take(hits.run, axis=0)
                summands[0] *= reached[0]
                summands[1:] *= reached[1:] - reached[:-1]
                precision[row, block] = np.add.reduce(summands, axis=0) / len(RECALLS)
                recall[row, block] = ends[0] / objects
    return np.ascontiguousarray(precision.T)[:, which], np.ascontiguousarray(recall.T)[:, which]


@dataclass(frozen=True)
class _Hits:
    """The hits of one row, best score first, and their runs, the last one first.

    Attributes:
        place: of each hit among the detections [H].
        run: of each hit [H].
        last: of each run, its last hit [N].
        rank: of that hit among the detections that count [N].
    """

    place: Ints
    run: Ints
    last: Ints
    rank: Ints


def _hits(hit: Bools, counted: Bools) -> Iterator[_Hits]:
    """The hits of every row of detections [R, D]."""
    row, place = np.nonzero(hit)
    rank = counted.cumsum(axis=1)[row, place] - 1
    ends = np.append((np.diff(rank) != 1) | (np.diff(row) != 0), True)[: len(row)]
    later = ends[::-1].cumsum()[::-1]  # runs that end at a hit or later, in all rows
    for start, stop in itertools.pairwise(np.searchsorted(row, np.arange(len(hit) + 1))):
        last = np.flatnonzero(ends[start:stop])[::-1]
        run = later[start:stop] - later[stop - 1] if stop > start else last
        yield _Hits(place[start:stop], run, last, rank[start:stop][last])


class _Recalls:
    """How many of COCO's recalls a number of hits reaches, of a number of objects in each resample.

    Attributes:
        table: recalls reached, by hits, for one number of objects after the other.
        first: where each resample's number of objects begins there [B].
    """

    def __init__(self, number: Ints, most: int) -> None:
        numbers, which = np.unique(number, return_inverse=True)
        needed = np.ceil(RECALLS * numbers[:, None])  # hits; as in COCOeval the rounded quotient decides
        needed -= (needed - 1) / numbers[:, None] >= RECALLS
        needed += needed / numbers[:, None] < RECALLS
        stops = np.minimum(needed, most + 1)
        stretches = np.diff(stops, axis=1, prepend=0, append=most + 1).astype(np.int64)
        levels = np.arange(len(RECALLS) + 1, dtype=np.uint8)
        self.table = np.repeat(np.tile(levels, len(numbers)), stretches.reshape(-1))
        self.first = (which.reshape(-1) * (most + 1)).astype(np.int32)


def _running(op: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
    """Running results of an operation along the first axis, in place."""
    if len(values) > values.shape[1]:
        return op.accumulate(values, axis=0, out=values, dtype=values.dtype)
    for earlier, later in itertools.pairwise(values):  # numpy goes column by column, many times slower on wide rows
        op(earlier, later, out=later)
    return values


def distinct_rows(rows: Bools) -> tuple[Bools, Ints]:
    """Distinct rows, and which of them each row is; much faster than `numpy.unique` along an axis."""
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(row.tobytes(), len(numbers)) for row in np.packbits(rows, axis=1)]
    _, first = np.unique(which, return_index=True)
    return rows[first], np.array(which, dtype=np.int64)
