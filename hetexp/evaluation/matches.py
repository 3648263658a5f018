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
from hetexp.evaluation.curves import curves

Floats = NDArray[np.float64]

AREAS = ("", "_small", "_medium", "_large")  # COCOeval's order: all, small, medium, large


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
        return _metrics([self], counts, names)[0]

    def estimates(self, counts: Counts, names: Sequence[str] | None = None) -> dict[str, Estimate]:
        """Metrics in percent with their values on every resample; n is the number of images."""
        return estimates_of([self], counts, names)[0]


def estimates_of(
    sets: Sequence[Matches], counts: Counts, names: Sequence[str] | None = None
) -> list[dict[str, Estimate]]:
    """`Matches.estimates` of several sets of masks; those of the same detections share what they have in common."""
    if not all(_same_detections(sets[0], one) for one in sets):
        return [one.estimates(counts, names) for one in sets]
    images = len(sets[0].images)
    smallest = np.min_scalar_type(int(counts.max(initial=1)))  # a byte, or weights would be the largest arrays of all
    once = np.ones((1, images), dtype=smallest)  # the images as they are, before all resamples
    return [
        {name: Estimate(100 * float(values[0]), 100 * values[1:], images) for name, values in metrics.items()}
        for metrics in _metrics(sets, np.concatenate([once, counts], dtype=smallest, casting="unsafe"), names)
    ]


def _same_detections(one: Matches, other: Matches) -> bool:
    fields = ("images", "thresholds", "image", "category", "score", "object_image", "object_category", "object_ignored")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


def _metrics(sets: Sequence[Matches], counts: Counts, names: Sequence[str] | None) -> list[dict[str, Floats]]:
    """`Matches.metrics` of sets of masks of the same detections; a list has the same bits alone and among others."""
    first = sets[0]
    wanted = first.names if names is None else tuple(names)
    unknown = [name for name in wanted if name not in first.names]
    if unknown:
        raise InputError(f"unknown COCO metric {', '.join(unknown)}. Available: {', '.join(first.names)}")
    if counts.ndim != 2 or counts.shape[1] != len(first.images):
        raise InputError(f"counts must be [B, {len(first.images)}], an image each, got {list(counts.shape)}")
    if len(counts) == 1:
        twice = _metrics(sets, np.repeat(counts, 2, axis=0), names)
        return [{name: values[:1] for name, values in metrics.items()} for metrics in twice]
    areas = [i for i, area in enumerate(AREAS) if any(name in ("AP" + area, "AR" + area) for name in wanted)]
    if first.names[-1] in wanted:
        areas = sorted({0, *areas})
    totals = [{name: np.zeros(len(counts)) for name in first.names} for _ in sets]
    present = np.zeros((len(AREAS), len(counts)))  # categories that count, by area
    for area, valid, of_sets in _categories(sets, counts, areas):
        present[area] += valid
        for total, (precision, recall) in zip(totals, of_sets, strict=True):
            total["AP" + AREAS[area]] += np.where(valid, precision.mean(axis=1), 0)
            total["AR" + AREAS[area]] += np.where(valid, recall.mean(axis=1), 0)
            if area == 0:
                total[first.names[-1]] += np.where(valid, precision[:, 0], 0)
    shares: list[dict[str, Floats]] = [{} for _ in sets]
    for name in wanted:
        number = present[AREAS.index(name[2:])] if name[2:] in AREAS else present[0]
        for share, total in zip(shares, totals, strict=True):
            share[name] = np.where(number > 0, total[name] / np.maximum(number, 1), np.nan)
    return shares


def _categories(
    sets: Sequence[Matches], counts: Counts, areas: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.bool_], list[tuple[Floats, Floats]]]]:
    """Per category and area: which lists hold objects [B], and of every set precision and recall [B, T] there."""
    first, by_image = sets[0], np.ascontiguousarray(counts.T)
    for category in np.unique(first.object_category):
        objects = np.flatnonzero(first.object_category == category)
        found = np.flatnonzero(first.category == category)
        found = found[np.argsort(-first.score[found], kind="stable")]
        weights = by_image[first.image[found]]
        for area in areas:
            counted = first.object_image[objects[~first.object_ignored[area, objects]]]
            if not len(counted):
                continue
            of_image = np.bincount(counted)
            present = np.flatnonzero(of_image)
            number = np.einsum("i,ib->b", of_image[present], by_image[present], dtype=np.int64)  # @ would widen a copy
            matched, ignored = (
                np.concatenate([getattr(one, name)[area][:, found] for one in sets]) for name in ("matched", "ignored")
            )
            parts = [slice(n * len(first.thresholds), (n + 1) * len(first.thresholds)) for n in range(len(sets))]
            hit = matched & ~ignored
            begun = np.zeros(len(hit), dtype=bool)
            for part in parts if len(found) else ():
                begun[part] = ~hit[part, (~ignored[part]).any(axis=0).argmax()]
            precision, recall = curves(weights, hit, ~ignored, begun, number)
            yield area, number > 0, [(precision[:, part], recall[:, part]) for part in parts]
