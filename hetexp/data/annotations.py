"""COCO's instances format: read once, and checked whole before anything is scored against it.

pycocotools takes almost anything: masks of another size, NaN, ids that occur twice all end as a lower number. Here a
file is either sound or refused with every problem named.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pycocotools import mask as rle

from hetexp.data.problems import DamagedFile, is_text, repeated, short
from hetexp.data.segmentation import PIXELS, run_lengths
from hetexp.errors import DataError

log = logging.getLogger(__name__)

_REQUIRED: dict[str, tuple[str, ...]] = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "iscrowd", "segmentation"),
    "categories": ("id", "name"),
}
Record = dict[str, Any]


@dataclass(frozen=True)
class Annotations:
    """A sound annotation file.

    Attributes:
        images: its image records, by rising id.
        categories: its category records.
        annotations: its annotations with ids from 1 on, masks as compressed run lengths and sound areas.
        numbers: id in the file -> id here.
    """

    images: list[Record]
    categories: list[Record]
    annotations: list[Record]
    numbers: dict[int, int]


def read_annotations(path: Path) -> Annotations:
    """Read and check a file in COCO's instances format.

    Annotations are numbered anew from 1 on, since pycocotools takes the id 0 for "no match". The area of a mask stands
    in where the file has none, or one that is no positive number or exceeds the image; a warning says how often.

    Raises:
        DataError: if the file cannot be read or is not of this format.
        DamagedFile: with every problem of its records.
    """
    content = _parse(_read(path), path)
    problems = [problem for part in _REQUIRED for problem in _incomplete(part, content[part])]
    if not problems:
        problems = [*_bad_images(content["images"]), *_bad_categories(content["categories"])]
    if problems:
        raise DamagedFile(path, problems)
    images = sorted(content["images"], key=lambda image: image["id"])
    annotations, problems = _checked(content["annotations"], images, {c["id"] for c in content["categories"]})
    if problems:
        raise DamagedFile(path, problems)
    _report_empty(path, content["annotations"], annotations)
    _replace_areas(path, content["annotations"], annotations, images)
    numbers = {record["id"]: number for number, record in enumerate(content["annotations"], start=1)}
    return Annotations(images, content["categories"], annotations, numbers)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"annotation file {path} does not exist: check the path, or download the data") from error
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> dict[str, list[Any]]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): it may be cut short, fetch it again") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{path} holds a {type(parsed).__name__}, expected COCO's object with images, annotations, ...")
    for part in _REQUIRED:
        if not isinstance(parsed.get(part), list):
            raise DataError(f"{path} lacks the list '{part}': COCO's instances format has {', '.join(_REQUIRED)}")
    if not parsed["images"]:
        raise DataError(f"{path} lists no images: at least one is needed")
    return parsed


def _incomplete(part: str, records: list[Any]) -> Iterator[str]:
    for number, record in enumerate(records):
        missing = [key for key in _REQUIRED[part] if not isinstance(record, dict) or key not in record]
        if missing:
            yield f"{part}[{number}] lacks {', '.join(missing)}, which COCO's format requires"


def _bad_images(images: list[Record]) -> Iterator[str]:
    for number, image in enumerate(images):
        where, name, sides = f"images[{number}]", image["file_name"], (image["width"], image["height"])
        if type(image["id"]) is not int:
            yield f"{where} has id {short(image['id'])}, expected a whole number"
        if not all(type(side) is int and side > 0 for side in sides) or not is_text(name) or not name:
            yield f"{where} needs a file name and a size in whole pixels > 0, got {short(image, 200)}"
            continue
        if math.prod(sides) > PIXELS:
            yield f"{where} has {sides[0]} x {sides[1]} pixels, more than a mask can hold ({PIXELS}): correct its size"
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield (
                f"{where} has file_name {name!r}, which leaves the images folder: give a path below it, and move or "
                "link the image there"
            )
    yield from repeated("image id", _whole(image["id"] for image in images), "ids must be unique")


def _bad_categories(categories: list[Record]) -> Iterator[str]:
    for number, category in enumerate(categories):
        if type(category["id"]) is not int or not is_text(category["name"]) or not category["name"]:
            yield f"categories[{number}] needs a whole number as id and a name, got {short(category, 200)}"
    yield from repeated("category id", _whole(c["id"] for c in categories), "ids must be unique")
    names = (c["name"] for c in categories if isinstance(c["name"], str))
    yield from repeated("category", names, "give each category its own name")


def _whole(values: Iterable[Any]) -> Iterator[int]:
    return (value for value in values if type(value) is int)


def _checked(records: list[Record], images: Sequence[Record], categories: set[int]) -> tuple[list[Record], list[str]]:
    """The annotations as pycocotools needs them, and what is wrong with those that are left out."""
    by_id = {image["id"]: image for image in images}
    sound: list[Record] = []
    problems: list[str] = []
    for number, record in enumerate(records):
        where, image = f"annotations[{number}] (id {short(record['id'])})", record["image_id"]
        if type(record["id"]) is not int:
            problems.append(f"{where} has an id that is no whole number: number the annotations")
        elif type(image) is not int or image not in by_id:
            problems.append(f"{where} belongs to image {short(image)}, which 'images' does not list")
        elif type(record["category_id"]) is not int or record["category_id"] not in categories:
            problems.append(f"{where} has category {short(record['category_id'])}, which 'categories' lacks")
        elif record["iscrowd"] not in (0, 1):
            problems.append(f"{where} has iscrowd {short(record['iscrowd'])}, expected 0 or 1")
        else:
            try:
                mask = run_lengths(record["segmentation"], by_id[image]["height"], by_id[image]["width"])
            except ValueError as error:
                problems.append(f"{where} of image {image} has {error}")
            else:
                sound.append({**record, "id": number + 1, "segmentation": mask})
    problems += repeated("annotation id", _whole(r["id"] for r in records), "number them anew, each once")
    return sound, problems


def _replace_areas(path: Path, records: list[Record], annotations: list[Record], images: Sequence[Record]) -> None:
    """Take the mask's area where the file's cannot be."""
    pixels = {image["id"]: image["width"] * image["height"] for image in images}

    def possible(area: Any, image: int) -> bool:
        return type(area) in (int, float) and 0 < area <= pixels[image]  # False for NaN

    wrong = [a for a in annotations if not possible(a.get("area"), a["image_id"])]
    for annotation in wrong:
        annotation["area"] = float(rle.area(annotation["segmentation"]))
    if wrong:
        first = records[wrong[0]["id"] - 1]
        log.warning(
            "%s: %d of %d annotations have no area that can be (the first is %s, annotation id %s): the area of their "
            "masks is taken",
            path,
            len(wrong),
            len(annotations),
            short(first["area"]) if "area" in first else "missing",
            first["id"],
        )


def _report_empty(path: Path, records: list[Record], annotations: list[Record]) -> None:
    """Warn of masks without a pixel: no detection can match them."""
    areas = [rle.area(annotation["segmentation"]) for annotation in annotations]  # a list's is counted in 8 bits
    empty = [record["id"] for record, area in zip(records, areas, strict=True) if area == 0]
    if empty:
        log.warning(
            "%s: %d of %d annotations have a mask without a pixel, which nothing can match (the first: annotation id "
            "%s): are their coordinates in pixels of the image?",
            path,
            len(empty),
            len(records),
            empty[0],
        )
