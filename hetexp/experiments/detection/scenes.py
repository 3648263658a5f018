"""Images as evaluation sees them: what is stored of one, and it with the masks of one method at every threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from torch import Tensor

from hetexp.data.categories import category_of
from hetexp.errors import InputError
from hetexp.evaluation.cells import Cells
from hetexp.evaluation.masks import foreground, segment
from hetexp.evaluation.thresholds.otsu import OTSU
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.attribution import DETECTIONS
from hetexp.experiments.engine.store import Store

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_CATEGORY = np.iinfo(np.int64).min  # of a label that is no category of the data


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image as evaluation needs it, the same for all methods and scales; sizes are (height, width)."""

    image_id: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    detections: list[tuple[int, int | None, float]]  # row of relevance or -1, COCO category, score
    boxes: list[tuple[float, float, float, float]]  # of the detections: centre, width and height, relative


def read_images(
    store: Store,
    chunks: Sequence[str],
    categories: dict[int, int | None],
    labels: Mapping[int, str],
    include_below_threshold: bool,
) -> tuple[list[StoredImage], list[str]]:
    """All images of the store in order, with their kept (or all) detections; and why others were skipped."""
    images: list[StoredImage] = []
    skipped: list[str] = []
    for chunk in chunks:
        tables = store.read(chunk, DETECTIONS).tables
        skipped += tables["skips"]["reason"].tolist()
        found = tables["detections"]
        if not include_below_threshold:
            found = found[found["target"] >= 0]
        of_image: dict[int, list[tuple[int, int | None, float]]] = {}
        boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        for row in found.itertuples():
            category = category_of(int(row.label), categories, labels)
            of_image.setdefault(int(row.image_id), []).append((int(row.target), category, float(row.score)))
            boxes.setdefault(int(row.image_id), []).append((row.x, row.y, row.w, row.h))
        images += [
            StoredImage(
                int(row.image_id),
                (int(row.height), int(row.width)),
                (int(row.input_height), int(row.input_width)),
                of_image.get(int(row.image_id), []),
                boxes.get(int(row.image_id), []),
            )
            for row in tables["images"].itertuples()
        ]
    return images, skipped


class Scene:
    """An image with its objects, kept while all methods are scored on it."""

    def __init__(self, image: StoredImage, coco: COCO) -> None:
        self.image, self._coco = image, coco
        self._counted: dict[Cells, Floats] = {}

    @cached_property
    def annotations(self) -> list[dict[str, Any]]:
        """Of the objects [n]."""
        found: list[dict[str, Any]] = self._coco.imgToAnns.get(self.image.image_id, [])
        return found

    def in_cells(self, cells: Cells) -> Floats:
        """Pixels of every object in every cell [n, cells]."""
        if cells not in self._counted:
            self._counted[cells] = cells.count([self._coco.annToRLE(a) for a in self.annotations])
        return self._counted[cells]

    @cached_property
    def crowd(self) -> NDArray[np.bool_]:
        """Which objects stand for a group [n]."""
        return np.array([bool(a.get("iscrowd", 0)) for a in self.annotations], dtype=bool)

    @cached_property
    def detections(self) -> tuple[Ints, Ints, Floats]:
        """Of the detections: row of relevance or -1, category or `NO_CATEGORY`, and score [D] each.

        Raises:
            InputError: on a score that is not finite.
        """
        found = self.image.detections
        scores = np.array([score for _, _, score in found], dtype=np.float64)
        if not np.isfinite(scores).all():
            raise InputError(f"a detection on image {self.image.image_id} has a score that is not finite")
        rows = np.array([row for row, _, _ in found], dtype=np.int64)
        categories = [NO_CATEGORY if category is None else category for _, category, _ in found]
        return rows, np.array(categories, dtype=np.int64), scores

    @cached_property
    def pairs(self) -> tuple[Ints, Ints]:
        """Detections and objects of one category, one detection after the other [P] each."""
        theirs = np.array([a["category_id"] for a in self.annotations], dtype=np.int64)
        detection, thing = np.nonzero(self.detections[1][:, None] == theirs)
        return detection, thing


@dataclass(frozen=True)
class ScoredImage:
    """One image with the maps and masks of one method at one threshold.

    Attributes:
        image_id: in the annotations.
        size: (height, width) of the image.
        relevance: maps of the kept queries [k, h, w]; one that was not finite is 0.
        detections: per detection the row of its map or -1, its category (None: not of this data) and its score.
        boxes: per detection centre x, centre y, width and height in units of the image's sides.
        make_masks: what `masks` comes from; it costs a pass over pixels.
    """

    image_id: int
    size: tuple[int, int]
    relevance: Tensor
    detections: Sequence[tuple[int, int | None, float]]
    boxes: Sequence[tuple[float, float, float, float]]
    make_masks: Callable[[], Tensor]

    @cached_property
    def masks(self) -> Tensor:
        """The relevance binarised and upsampled, bool [k, H, W]."""
        return self.make_masks()


@dataclass(frozen=True)
class SweptImage:
    """One image with the maps of one method and their masks at every threshold.

    Attributes:
        scene: the image with its objects.
        relevance: maps of the kept queries [k, h, w]; one that was not finite is 0.
        u8: the same at 8 bits.
        thresholds: the strategy's, of each map [k].
        scales: multiples of the thresholds [S].
        upsample: how masks get to the size of the image.
        tie: what a token exactly at the threshold is.
        strategy: what thresholds maps that are upsampled before.
    """

    scene: Scene
    relevance: Tensor
    u8: Tensor
    thresholds: Tensor
    scales: Sequence[float]
    upsample: Upsampling = Upsampling.reference
    tie: Tie = Tie.background
    strategy: Strategy = OTSU

    def at(self, threshold: int) -> ScoredImage:
        """The image at one threshold, by its number."""
        image = self.scene.image
        make = partial(self.pixels, threshold)
        return ScoredImage(image.image_id, image.size, self.relevance, image.detections, image.boxes, make)

    def pixels(self, threshold: int) -> Tensor:
        """Masks at one threshold, by its number, bool [k, H, W]."""
        sizes = self.scene.image.input_size, self.scene.image.size
        return segment(
            self.relevance,
            self.scales[threshold],
            *sizes,
            self.upsample,
            thresholds=self.thresholds,
            tie=self.tie,
            strategy=self.strategy,
        )

    @cached_property
    def cells(self) -> Cells:
        """The rectangles of the image that all of these masks are made of."""
        image = self.scene.image
        return Cells.of(self.relevance.shape[1:], image.input_size, image.size, self.upsample)

    @cached_property
    def areas(self) -> Floats:
        """Pixels of every mask, and of one without a pixel, for which row -1 stands [S, k + 1]."""
        return _and_empty(self._cover @ self.cells.areas)

    @cached_property
    def intersections(self) -> Floats:
        """Pixels that every mask has in common with every object; the last is without a pixel [S, k + 1, n]."""
        return _and_empty(self._cover @ self.scene.in_cells(self.cells).T)

    @cached_property
    def _cover(self) -> Floats:
        if self.cells.weights is None:
            return np.stack([self.cells.cover(self.pixels(n)) for n in range(len(self.scales))])
        masks = foreground(self.u8, self.thresholds, self.scales, self.tie)
        return self.cells.cover(masks.flatten(0, 1)).reshape(*masks.shape[:2], len(self.cells.areas))


def _and_empty(pixels: Floats) -> Floats:
    """Pixels of masks [S, k, ...], and of one without a pixel after them [S, k + 1, ...]."""
    return np.concatenate([pixels, np.zeros((len(pixels), 1, *pixels.shape[2:]))], axis=1)
