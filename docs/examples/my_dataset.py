"""A dataset format: photographs beside label images, whose pixel values number the classes (0: background)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from hetexp.data.coco import ItemError, SceneItem
from hetexp.data.registry import DATASETS, DatasetFormat
from hetexp.errors import DataError


class LabelImages:
    """A `DetectionData`: `photos/NAME.jpg` with `labels/NAME.png`; a class is one object of an image.

    Args:
        photos: folder of the photographs.
        labels: folder of the label images.
        classes: names of the classes 1, 2, ...
        limit: how many images to take; None for all.
    """

    def __init__(self, photos: Path, labels: Path, classes: list[str], limit: int | None) -> None:
        self._photos, self._labels, self._classes = photos, labels, classes
        found = sorted(photos.glob("*.jpg"))[:limit]
        if not found:
            raise DataError(f"{photos} holds no .jpg file: check data.root and data.images")
        self.items = [self._item(number, path) for number, path in enumerate(found)]

    @cached_property
    def coco(self) -> COCO:
        """The label images as pycocotools' COCO object."""
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i.image_id, "width": i.width, "height": i.height} for i in self.items],
            "annotations": [],
            "categories": [{"id": n, "name": name} for n, name in enumerate(self._classes, 1)],
        }
        for item in self.items:
            labels = np.asarray(Image.open(self._label_file(item)))
            for category in sorted(set(np.unique(labels).tolist()) - {0}):
                code = rle.encode(np.asfortranarray(labels == category).astype(np.uint8))
                coco.dataset["annotations"].append(
                    {
                        "id": len(coco.dataset["annotations"]) + 1,
                        "image_id": item.image_id,
                        "category_id": category,
                        "segmentation": code,
                        "area": float(rle.area(code)),
                        "bbox": rle.toBbox(code).tolist(),
                        "iscrowd": 0,
                    }
                )
        coco.createIndex()
        return coco

    def path(self, item: SceneItem) -> Path:
        """Where the photograph lies."""
        return self._photos / item.file_name

    def load(self, item: SceneItem) -> Image.Image:
        """The photograph in RGB; a run records and leaves out one that raises ItemError."""
        try:
            return Image.open(self.path(item)).convert("RGB")
        except OSError as error:
            raise ItemError(f"{self.path(item)} is damaged ({error}): replace the file") from error

    def item_digest(self, item: SceneItem) -> str:
        """Hash of the photograph: stored relevance is computed again when it changes."""
        return hashlib.sha256(self.path(item).read_bytes()).hexdigest()

    def dataset_digest(self) -> str:
        """Hash of all label images: it names the data in run.json."""
        digest = hashlib.sha256(repr(self._classes).encode())
        for item in self.items:
            digest.update(self._label_file(item).read_bytes())
        return digest.hexdigest()

    def _item(self, number: int, path: Path) -> SceneItem:
        with Image.open(path) as image:
            return SceneItem(number, path.name, *image.size)

    def _label_file(self, item: SceneItem) -> Path:
        return (self._labels / item.file_name).with_suffix(".png")


def open_label_images(data: Mapping[str, Any], *, limit: int | None, seed: int) -> LabelImages:
    """The data set that a `data` configuration describes; `classes.txt` names a class a line."""
    root = Path(data["root"])
    classes = (root / "classes.txt").read_text(encoding="utf-8").split()
    return LabelImages(root / data["images"], root / data["annotations"], classes, limit)


DATASETS["label_images"] = DatasetFormat("detection", f"{__name__}:open_label_images", "photographs and label images")
