"""The interface of region features: what a store gives, and what is checked whatever the file format."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetexp.data.coco import ItemError

_TOLERANCE = 1e-5  # LXMERT's own: a detector's boxes may overshoot by rounding


@dataclass(frozen=True)
class Regions:
    """Regions of one image, R of them.

    Attributes:
        features: [R, D].
        boxes: [R, 4], x1, y1, x2, y2 in units of the image's sides.
        width: of the image, in pixels.
        height: of the image, in pixels.
        objects: class ids [R], where the file has them.
    """

    features: NDArray[np.float32]
    boxes: NDArray[np.float32]
    width: int
    height: int
    objects: NDArray[np.int64] | None = None


class RegionStore(ABC):
    """Regions by image id. A subclass reads; the checks are here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[str, str] = {}

    @property
    @abstractmethod
    def image_ids(self) -> list[str]:
        """All image ids of the file."""

    @abstractmethod
    def _read(self, img_id: str) -> Regions:
        """Regions as stored; the id is known to be there."""

    @abstractmethod
    def _has(self, img_id: str) -> bool: ...

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, img_id: str) -> bool:
        return self._has(img_id)

    def regions(self, img_id: str) -> Regions:
        """Regions of one image.

        Raises:
            ItemError: naming the image, if it has none, its record is damaged, a feature is NaN or infinite, or a box
                lies outside the image.
        """
        self._known(img_id)
        return self._checked(img_id, self._read(img_id))

    def digest(self, img_id: str) -> str:
        """SHA-256 of an image's regions as stored, as hex.

        Raises:
            ItemError: if they cannot be read.
        """
        if img_id not in self._digests:
            self._known(img_id)
            self._digests[img_id] = hashlib.sha256(self._content(img_id)).hexdigest()
        return self._digests[img_id]

    def _content(self, img_id: str) -> bytes:
        found = self._read(img_id)
        return found.features.tobytes() + found.boxes.tobytes() + f"{found.width}x{found.height}".encode()

    def _known(self, img_id: str) -> None:
        if not self._has(img_id):
            raise ItemError(f"image {img_id} has no regions in {self.path}: extract them, or drop its questions")

    def damaged(self, img_id: str, what: object) -> ItemError:
        """The error that says what is wrong with an image's record."""
        return ItemError(f"regions of image {img_id} in {self.path} are damaged ({what}): fetch the file again")

    def from_pixels(
        self, img_id: str, features: ArrayLike, boxes: ArrayLike, width: Any, height: Any, objects: ArrayLike | None
    ) -> Regions:
        """Regions from boxes in pixels.

        Args:
            img_id: the image, for messages.
            features: [R, D].
            boxes: [R, 4], x1, y1, x2, y2 in pixels.
            width: of the image, in pixels.
            height: of the image, in pixels.
            objects: class ids [R].

        Raises:
            ItemError: if the image's size or the shape of the boxes is impossible.
        """
        width, height = int(width), int(height)
        if width < 1 or height < 1:
            raise self.damaged(img_id, f"image size {width} x {height}")
        pixels = np.array(boxes, dtype=np.float32)
        if pixels.ndim != 2 or pixels.shape[1] != 4:
            raise self.damaged(img_id, f"boxes of shape {list(pixels.shape)}, expected [R, 4]")
        scaled = np.divide(pixels, np.array([width, height, width, height], dtype=np.float32), dtype=np.float32)
        classes = None if objects is None else np.array(objects, dtype=np.int64).reshape(-1)
        return Regions(np.array(features, dtype=np.float32), scaled, width, height, classes)

    def _checked(self, img_id: str, found: Regions) -> Regions:
        where = f"image {img_id} in {self.path}"
        count = len(found.boxes)
        if count == 0:
            raise ItemError(f"{where} has 0 regions, expected at least 1: extract them again, or drop its questions")
        if found.features.ndim != 2 or len(found.features) != count:
            raise self.damaged(img_id, f"{list(found.features.shape)} features for {count} boxes")
        if found.objects is not None and len(found.objects) != count:
            raise self.damaged(img_id, f"{len(found.objects)} class ids for {count} boxes")
        bad = np.flatnonzero(~np.isfinite(found.features).all(axis=1))
        if len(bad):
            raise ItemError(f"{where}: features of region {bad[0]} hold NaN or infinity: extract them again")
        x1, y1, x2, y2 = found.boxes.T
        inside = (found.boxes >= -_TOLERANCE).all(axis=1) & (found.boxes <= 1 + _TOLERANCE).all(axis=1)
        bad = np.flatnonzero(~(inside & (x1 <= x2) & (y1 <= y2)))
        if len(bad):
            raise ItemError(
                f"{where}: box {bad[0]} is {found.boxes[bad[0]].tolist()} in units of the image's sides "
                f"({found.width} x {found.height} pixels), "
                "expected 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1"
            )
        return found
