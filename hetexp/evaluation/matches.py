"""COCO's matches of detections and objects, from which AP and AR of any resampled image list follow without matching.

Drawing an image w times gives its detections and objects weight w. Neither the order of detections nor what each is
matched to depends on the other images, so only cumulative sums of weights change between resamples. The result is that
of pycocotools on the list in which each image stands w times under ids of its own, if no two detections of one
category and image have the same score (copies of tied detections would be sorted image by image there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetexp.errors import InputError
from hetexp.evaluation.bootstrap import Counts, Estimate

Floats = NDArray[np.float64]

AREAS = ("", "_small", "_medium", "_large")  # COCOeval's order: all, small, medium, large
_RECALLS = np.linspace(0.0, 1.0, 101)  # COCOeval's recThrs
_VALUES = 200_000  # resamples x thresholds x detections at once: a few arrays that fit a cache


@dataclass(frozen=True)
class Matches:
    """What COCOeval found on every image: about 150 bytes per detection and 20 per object, however large the masks.

    Attributes:
        images: ids of the evaluated images, ascending [U].
        thresholds: IoU thresholds [T].
        image: of each detection, its place in `images` [D]; detections of a category stand in COCO's order of images.
        category: of each detection [D].
        score: of each detection [D].
        matched: bool [areas, T, D].
        ignored: bool [areas, T, D]; such a detection counts neither way.
        object_image: of each object, its place in `images` [G].
        object_category: of each object [G].
        object_ignored: bool [areas, G]; crowds, and objects of other sizes.
    """

    images: NDArray[np.int64]
    thresholds: Floats
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    score: Floats
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_image: NDArray[np.int64]
    object_category: NDArray[np.int64]
    object_ignored: NDArray[np.bool_]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name, for storing."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Matches:
        """The matches whose `arrays` these are."""
        return cls(**arrays)

    @property
    def names(self) -> tuple[str, ...]:
        """All metrics: AP and AR of every area, and AP at the first threshold."""
        return (*(m + area for m in ("AP", "AR") for area in AREAS), f"AP{100 * self.thresholds[0]:g}")

    def metrics(self, counts: Counts, names: Sequence[str] | None = None) -> dict[str, Floats]:
        """COCO's metrics of weighted images.

        Args:
            counts: how often each image stands in the list [B, U].
            names: of the metrics wanted; None stands for all.

        Returns:
            name -> [B], as fractions; NaN where a list holds no such objects.

        Raises:
            InputError: for unknown metrics, and counts of another number of images.
        """
        wanted = self.names if names is None else tuple(names)
        unknown = [name for name in wanted if name not in self.names]
        if unknown:
            raise InputError(f"unknown COCO metric {', '.join(unknown)}. Available: {', '.join(self.names)}")
        if counts.ndim != 2 or counts.shape[1] != len(self.images):
            raise InputError(f"counts must be [B, {len(self.images)}], an image each, got {list(counts.shape)}")
        areas = [i for i, area in enumerate(AREAS) if any(name in ("AP" + area, "AR" + area) for name in wanted)]
        if self.names[-1] in wanted:
            areas = sorted({0, *areas})
        totals = {name: np.zeros(len(counts)) for name in self.names}
        present = np.zeros((len(AREAS), len(counts)))  # categories that count, by area
        for area, valid, precision, recall in self._categories(counts, areas):
            present[area] += valid
            totals["AP" + AREAS[area]] += np.where(valid, precision.mean(axis=1), 0)
            totals["AR" + AREAS[area]] += np.where(valid, recall.mean(axis=1), 0)
            if area == 0:
                totals[self.names[-1]] += np.where(valid, precision[:, 0], 0)
        shares = {}
        for name in wanted:
            number = present[AREAS.index(name[2:])] if name[2:] in AREAS else present[0]
            shares[name] = np.where(number > 0, totals[name] / np.maximum(number, 1), np.nan)
        return shares

    def estimates(self, counts: Counts, names: Sequence[str] | None = None) -> dict[str, Estimate]:
        """Metrics in percent with their values on every resample; n is the number of images."""
        own = self.metrics(np.ones((1, len(self.images)), dtype=np.int32), names)
        resampled = self.metrics(counts, names)
        return {m: Estimate(100 * float(own[m][0]), 100 * resampled[m], len(self.images)) for m in own}

    def _categories(
        self, counts: Counts, areas: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.bool_], Floats, Floats]]:
        """Per category and area: which lists hold objects [B], and precision and recall [B, T] there."""
        for category in np.unique(self.object_category):
            objects = np.flatnonzero(self.object_category == category)
            found = np.flatnonzero(self.category == category)
            found = found[np.argsort(-self.score[found], kind="stable")]
            weights = counts[:, self.image[found]]
            for area in areas:
                counted = self.object_image[objects[~self.object_ignored[area, objects]]]
                if not len(counted):
                    continue
                number = counts @ np.bincount(counted, minlength=len(self.images))
                precision, recall = _curves(
                    weights, self.matched[area][:, found], self.ignored[area][:, found], number.astype(np.float64)
                )
                yield area, number > 0, precision, recall


def _curves(
    weights: Counts, matched: NDArray[np.bool_], ignored: NDArray[np.bool_], number: Floats
) -> tuple[Floats, Floats]:
    """Mean interpolated precision over recall, and the recall reached, both [B, T].

    Args:
        weights: of the detections, best score first [B, D].
        matched: [T, D].
        ignored: [T, D].
        number: of objects [B].
    """
    shape = (len(weights), len(matched))
    hit, miss = matched & ~ignored, ~matched & ~ignored
    if not hit.any():
        return np.zeros(shape), np.zeros(shape)
    counted = (hit | miss).any(axis=0)
    hit, miss, weights = hit[:, counted], miss[:, counted], weights[:, counted]
    # neighbouring thresholds often agree on every detection
    rows, which = np.unique(np.concatenate([hit, miss], axis=1), axis=0, return_inverse=True)
    hit, miss = rows[:, : hit.shape[1]], rows[:, hit.shape[1] :]
    step = max(1, _VALUES // rows.size)
    parts = [_curves_at_once(weights[b : b + step], hit, miss, number[b : b + step]) for b in range(0, shape[0], step)]
    precision, recall = (np.concatenate(part) for part in zip(*parts, strict=True))
    return precision[:, which.reshape(-1)], recall[:, which.reshape(-1)]


def _curves_at_once(
    weights: Counts, hit: NDArray[np.bool_], miss: NDArray[np.bool_], number: Floats
) -> tuple[Floats, Floats]:
    true = np.cumsum(weights[:, None] * hit, axis=2, dtype=np.int32)  # [B, T, D]
    counted = np.cumsum(weights[:, None] * (hit | miss), axis=2, dtype=np.int32)
    precision = true / (counted + np.spacing(1))
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    reached = _reached(true, number)
    newly = np.diff(reached, axis=2, prepend=0)
    recall = true[..., -1] / np.maximum(number, 1)[:, None]
    return np.einsum("btd,btd->bt", envelope, newly) / len(_RECALLS), recall


def _reached(true: NDArray[np.int32], number: Floats) -> NDArray[np.int64]:
    """Recall thresholds up to and at each detection [B, T, D], looked up by numbers of hits and objects."""
    numbers, which = np.unique(np.maximum(number, 1), return_inverse=True)
    most = int(true[..., -1].max())
    if len(numbers) * (most + 1) > true.size:
        return np.searchsorted(_RECALLS, true / np.maximum(number, 1)[:, None, None], side="right")
    table = np.searchsorted(_RECALLS, np.arange(most + 1) / numbers[:, None], side="right")
    return table[which.reshape(-1)[:, None, None], true]
