"""COCO's matching of detections and objects, for many images, areas, IoU thresholds and sets of masks at once.

The same greedy choice as in pycocotools' COCOeval: detections in the order of their scores, each takes the object still
free that it overlaps most, one that counts before one that is ignored; of equal overlaps the later object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from hetexp.evaluation.matches import AREAS, Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # of AREAS, in pixels; ends count
MOST = 100  # detections of an image and category that are matched, best scores first
_VALUES = 500_000  # sets x groups x areas x thresholds x objects at once: a few arrays that fit a cache


@dataclass(frozen=True)
class Objects:
    """Annotated objects of the evaluated images, image by image, in the order of the annotations.

    Attributes:
        images: ids of the evaluated images, ascending [U].
        annotations: the objects themselves.
        ids: of the annotations [G].
        image: of each object, its place in `images` [G].
        position: of each object among those of its image and category [G].
        category: of each object [G].
        crowd: whether it stands for a group; such an object takes any number of detections [G].
        ignored: which do not count, by area: crowds, and objects of other sizes [areas, G].
    """

    images: Ints
    annotations: Sequence[Mapping[str, Any]]
    ids: Ints
    image: Ints
    position: Ints
    category: Ints
    crowd: Bools
    ignored: Bools

    @classmethod
    def of(cls, coco: COCO, image_ids: Sequence[int]) -> Objects:
        """The objects of some images, whose ids are ascending."""
        of_images = [coco.imgToAnns.get(image, []) for image in image_ids]
        found = [annotation for annotations in of_images for annotation in annotations]
        sizes = np.array([len(annotations) for annotations in of_images], dtype=np.int64)
        area = np.array([a["area"] for a in found], dtype=np.float64)
        category = np.array([a["category_id"] for a in found], dtype=np.int64)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in found], dtype=bool)
        image = np.repeat(np.arange(len(sizes)), sizes)
        group = category * len(sizes) + image
        order = np.argsort(group, kind="stable")
        position = np.empty_like(order)
        position[order] = _rank(group[order])
        return cls(
            images=np.array(image_ids, dtype=np.int64),
            annotations=found,
            ids=np.array([a["id"] for a in found], dtype=np.int64),
            image=image,
            position=position,
            category=category,
            crowd=crowd,
            ignored=crowd | _outside(area),
        )


@dataclass(frozen=True)
class Detections:
    """Detections in the order in which they came, with one or more sets of masks (or boxes).

    Attributes:
        image: of each detection, its place among the images [D].
        category: of each detection [D].
        score: of each detection [D].
        area: of the masks of each set, in pixels [S, D].
        iou: with every object of its image and category, one detection after the other [S, P].
        first: of each detection, where its pairs begin [D].
    """

    image: Ints
    category: Ints
    score: Floats
    area: Floats
    iou: Floats
    first: Ints


def match(objects: Objects, detections: Detections, thresholds: Floats) -> list[Matches]:
    """The matches of every set of masks.

    Categories without an object never count (COCO's -1), so that their detections are left out.

    Args:
        objects: the ground truth.
        detections: of the same images.
        thresholds: of IoU [T].
    """
    images = len(objects.images)
    categories = np.unique(objects.category)
    known = np.flatnonzero(np.isin(detections.category, categories))
    group = detections.category[known] * images + detections.image[known]
    order = np.lexsort((-detections.score[known], group))
    kept, group = known[order], group[order]
    kept = kept[(rank := _rank(group)) < MOST]
    group = group[rank < MOST]
    matched = np.zeros((len(detections.area), len(AREAS), len(thresholds), len(kept)), dtype=bool)
    ignored = np.broadcast_to(_outside(detections.area[:, kept])[:, :, None], matched.shape).copy()
    of_group = np.argsort(objects.category * images + objects.image, kind="stable")
    owner = (objects.category * images + objects.image)[of_group]
    for rows, columns in _shapes(group, owner):
        step = max(1, _VALUES // (matched[..., 0].size * columns.shape[1]))
        for start in range(0, len(rows), step):
            row, column = rows[start : start + step], columns[start : start + step]
            target = np.where(column < 0, -1, of_group[column])
            pairs = detections.first[kept[row]][:, :, None] + objects.position[target][:, None]
            nothing = (row < 0)[:, :, None] | (column < 0)[:, None]
            iou = np.where(nothing, -1.0, detections.iou[:, np.where(nothing, 0, pairs)])
            hit, excused = _greedy(iou, objects.ignored[:, target], objects.crowd[target], thresholds)
            real = row >= 0
            places = row[real]
            found = hit[..., real]
            matched[..., places] = found
            ignored[..., places] = np.where(found, excused[..., real], ignored[..., places])
    by_id = np.lexsort((objects.ids, objects.image, objects.category))
    return [
        Matches(
            images=objects.images,
            thresholds=thresholds,
            image=detections.image[kept],
            category=detections.category[kept],
            score=detections.score[kept],
            matched=one,
            ignored=other,
            object_image=objects.image[by_id],
            object_category=objects.category[by_id],
            object_ignored=np.ascontiguousarray(objects.ignored[:, by_id]),
        )
        for one, other in zip(matched, ignored, strict=True)
    ]


def _greedy(iou: Floats, ignored: Bools, crowd: Bools, thresholds: Floats) -> tuple[Bools, Bools]:
    """Which detections are matched, and which of these to an object that does not count: [S, areas, T, m, D] each.

    Args:
        iou: of m groups of D detections, best score first, and G objects [S, m, D, G].
        ignored: [areas, m, G].
        crowd: [m, G].
        thresholds: [T].
    """
    sets, groups, ranks, n = iou.shape
    least = np.minimum(thresholds, 1 - 1e-10)
    shape = (sets, len(ignored), len(thresholds), groups)
    hit, excused = np.zeros((*shape, ranks), bool), np.zeros((*shape, ranks), bool)
    taken = np.zeros((*shape, n), dtype=bool)
    # how much each object is preferred, from 1 up: those that count first, then by overlap, then the later one
    preferred = np.argsort(np.argsort(iou, axis=-1, kind="stable"), axis=-1).astype(np.int16) + 1
    lift = np.where(ignored, 0, n).astype(np.int16)
    for rank in range(ranks):
        reached = iou[:, None, None, :, rank] >= least[:, None, None]  # [S, 1, T, m, G]
        worth = (preferred[:, None, :, rank] + lift)[:, :, None] * (reached & ~(taken & ~crowd))
        best = worth.max(axis=-1)
        hit[..., rank] = best > 0
        excused[..., rank] = best <= n
        if rank + 1 < ranks:
            taken |= (worth == best[..., None]) & (best > 0)[..., None]
    return hit, excused


def _shapes(group: Ints, owner: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Groups that have detections and objects, those of a similar size together.

    Args:
        group: of each detection, ascending.
        owner: the group of each object, ascending.

    Yields:
        places of the detections [m, D] and of the objects [m, G] of m groups, filled up with -1.
    """
    groups, first, sizes = np.unique(group, return_index=True, return_counts=True)
    begin = np.searchsorted(owner, groups, side="left")
    numbers = np.searchsorted(owner, groups, side="right") - begin
    shapes = np.stack([_rounded(sizes), _rounded(numbers)], axis=1)
    for d, g in np.unique(shapes[numbers > 0], axis=0):
        which = np.flatnonzero((shapes == (d, g)).all(axis=1))
        yield _filled(first[which], sizes[which], d), _filled(begin[which], numbers[which], g)


def _filled(first: Ints, sizes: Ints, width: int) -> Ints:
    steps = np.arange(width)
    return np.where(steps < sizes[:, None], first[:, None] + steps, -1)


def _rounded(sizes: Ints) -> Ints:
    """Up to 4 as they are, then to the next multiple of 4, above 16 of 16: few shapes, little to fill up."""
    step = np.where(sizes <= 4, 1, np.where(sizes <= 16, 4, 16))
    return np.asarray(-(-sizes // step) * step)


def _rank(group: Ints) -> Ints:
    """Place of each detection within its group, of groups that follow each other."""
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    return np.arange(len(group)) - np.repeat(first, sizes)


def _outside(area: Floats) -> Bools:
    """Which areas [..., n] lie outside of each range [..., areas, n]."""
    low, high = AREA_RANGES.T[:, :, None]
    return (area[..., None, :] < low) | (area[..., None, :] > high)
