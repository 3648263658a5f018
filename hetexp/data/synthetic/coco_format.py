"""Rendered scenes as a COCO-format folder: images/ and annotations.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

from hetexp.data.synthetic.scenes import Scene, coco_categories
from hetexp.files import atomic_write

JPEG_QUALITY = 92


def annotations_of(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of a scene, front to back: exact RLE masks, and `color`, `depth`, `visible` besides."""
    records = []
    for number, thing in enumerate(scene.objects):
        code = rle_codec.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
        records.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": thing.category_id,
                "bbox": [float(v) for v in thing.bbox],
                "area": float(thing.area),
                "iscrowd": 0,
                "segmentation": {"size": [int(v) for v in code["size"]], "counts": code["counts"].decode("ascii")},
                "color": thing.color,
                "depth": thing.depth,
                "visible": round(thing.visible, 4),
            }
        )
    return records


def write_coco(folder: str | Path, scenes: Iterable[Scene], description: str = "rendered scenes") -> dict[str, Any]:
    """Write scenes as ``folder/images/000001.jpg`` … and ``folder/annotations.json``.

    The annotations are written last and whole, so that a folder that has them is complete.

    Args:
        folder: where to write.
        scenes: written as they come.
        description: of the data set, for the file's ``info``.

    Returns:
        The content of annotations.json.
    """
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=1):
        name = f"{image_id:06d}.jpg"
        picture = Image.fromarray(scene.image)
        picture.save(root / "images" / name, quality=JPEG_QUALITY)
        images.append(
            {"id": image_id, "file_name": name, "width": picture.width, "height": picture.height, "license": 1}
        )
        annotations += annotations_of(scene, image_id, len(annotations) + 1)
    content = {
        "info": {"description": description, "version": "1.0"},
        "licenses": [
            {"id": 1, "name": "composed from Noto Color Emoji, SIL Open Font License 1.1; see LICENSE.txt", "url": ""}
        ],
        "images": images,
        "annotations": annotations,
        "categories": coco_categories(),
    }
    atomic_write(root / "annotations.json", json.dumps(content, separators=(",", ":")) + "\n")
    return content
