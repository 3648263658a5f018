"""Ground-truth measures of detection: does the relevance of each detection lie on the object that was detected?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pycocotools.coco import COCO

from hetexp.evaluation.ground_truth import Surroundings, map_measures
from hetexp.experiments.detection.scenes import ScoredImage
from hetexp.experiments.engine.items import ItemValues

MIN_IOU = 0.5  # of the boxes of a detection and its object
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # COCO's, in pixels of the mask


class GroundTruth:
    """Measures of every detected object's map, over all of them, per size, and over those with siblings.

    A kept detection belongs to the object of its category, no crowd, whose box its own overlaps most, by an IoU of at
    least 0.5; one without such an object is left out, for all methods alike.
    """

    panel = "ground_truth"
    of_masks = False

    def __init__(self, coco: COCO, image_ids: Sequence[int]) -> None:
        self._coco = coco
        self._rows: list[tuple[str, str, set[str], dict[str, float]]] = []  # item, image, panels, measures

    def add(self, image: ScoredImage) -> None:
        """Measure the maps of one more image."""
        annotations = [a for a in self._coco.imgToAnns.get(image.image_id, []) if not a.get("iscrowd", 0)]
        owners = owners_of(annotations, image)
        masks = {a["id"]: self._coco.annToMask(a).astype(bool) for a in annotations} if owners else {}
        for row, owner in sorted(owners.items()):
            kin = [a for a in annotations if a["category_id"] == owner["category_id"] and a is not owner]
            rest = [a for a in annotations if a["category_id"] != owner["category_id"]]
            target = masks[owner["id"]]
            if not target.any():
                continue
            around = Surroundings.of(target, _union(masks, kin, target), _union(masks, rest, target))
            parts = [size_of(owner["area"]), *(["with siblings"] if kin else [])]
            panels = {self.panel, *(f"{self.panel}/{part}" for part in parts)}
            measures = map_measures(image.relevance[row].double().numpy(), around)
            self._rows.append((f"{image.image_id}:{row}", str(image.image_id), panels, measures))

    def values(self) -> dict[str, float | None]:
        """Nothing besides the means of `items`."""
        return {}

    def items(self) -> Iterator[ItemValues]:
        """Every measure of every detected object, panel by panel."""
        order = (self.panel, *(f"{self.panel}/{part}" for part in (*SIZES, "with siblings")))
        for panel in order:
            rows = [row for row in self._rows if panel in row[2]]
            if not rows:
                continue
            names, images = [row[0] for row in rows], [row[1] for row in rows]
            for measure in rows[0][3]:
                yield ItemValues(panel, measure, np.array([row[3][measure] for row in rows]), names, images)


def owners_of(annotations: Sequence[dict[str, Any]], image: Any) -> dict[int, dict[str, Any]]:
    """Row of relevance -> the object that was detected, see `GroundTruth`."""
    found = {}
    height, width = image.size
    for (row, category, _), (x, y, w, h) in zip(image.detections, image.boxes, strict=True):
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        owner = None if row < 0 else owner_of(annotations, category, box)
        if owner is not None:
            found[row] = owner
    return found


def owner_of(
    annotations: Sequence[dict[str, Any]], category: int | None, box: Sequence[float]
) -> dict[str, Any] | None:
    """The object that a detection belongs to, see `GroundTruth`; None if there is none.

    Args:
        annotations: the image's objects.
        category: of the detection.
        box: its x, y, width and height, in pixels.
    """
    candidates = [a for a in annotations if a["category_id"] == category]
    if not candidates:
        return None
    overlap = rle.iou([list(box)], [a["bbox"] for a in candidates], [0] * len(candidates))[0]
    return candidates[int(overlap.argmax())] if overlap.max() >= MIN_IOU else None


def size_of(area: float) -> str:
    """COCO's name for the size of an object of so many pixels."""
    return next(size for size, (low, high) in SIZES.items() if low <= area < high)


def _union(
    masks: dict[int, NDArray[np.bool_]], annotations: Sequence[dict[str, Any]], like: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    return reduce(np.logical_or, [masks[a["id"]] for a in annotations], np.zeros_like(like))
