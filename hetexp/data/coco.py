"""Images and annotations of a COCO-format folder: val2017 as released, the embedded scenes, or a user's own."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from pycocotools.coco import COCO

from hetexp.errors import DataError
from hetexp.files import file_hash


class ItemError(DataError):
    """One item of a data set is damaged: a run can record it, leave it out and go on."""


@dataclass(frozen=True)
class SceneItem:
    """One image of the data set; sizes in pixels."""

    image_id: int
    file_name: str
    width: int
    height: int


class CocoScenes:
    """A COCO-format data set, in the order of image ids; images without annotations are kept.

    Args:
        images_dir: folder of the images.
        annotation_file: annotations in COCO's instances format.
        limit: how many images to take; None for all.

    Raises:
        DataError: if the folder or the annotation file is missing, is not valid JSON, lacks what COCO's format requires
            or names an image that is not there.
    """

    def __init__(self, images_dir: str | Path, annotation_file: str | Path, limit: int | None = None) -> None:
        self.images_dir, self.annotation_file = Path(images_dir), Path(annotation_file)
        if limit is not None and limit < 1:
            raise DataError(f"limit must be at least 1 image, got {limit}: leave it out to take all")
        if not self.images_dir.is_dir():
            raise DataError(f"image folder {self.images_dir} does not exist: check the path, or download the data")
        self._content = _parse(_read(self.annotation_file), self.annotation_file)
        self._digest = file_hash(self.annotation_file)
        self.items = self._list_items()[:limit]
        self._check_files()

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def coco(self) -> COCO:
        """The annotations as pycocotools' COCO object (all images, whatever the limit)."""
        coco = COCO()
        coco.dataset = self._content
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    @property
    def categories(self) -> dict[int, str]:
        """Category names by category id."""
        return {category["id"]: category["name"] for category in self._content["categories"]}

    def path(self, item: SceneItem) -> Path:
        """Where the image lies."""
        return self.images_dir / item.file_name

    def load(self, item: SceneItem) -> Image.Image:
        """The image in RGB (greyscale and CMYK converted, stored orientation kept as COCO's annotations expect).

        Raises:
            ItemError: if the file cannot be read or decoded, is cut short or has another size than its record.
        """
        with self._readable(item):
            content = self.path(item).read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # damaged metadata does not touch the pixels
                with Image.open(io.BytesIO(content)) as image:
                    rgb = image.convert("RGB")
        except UnidentifiedImageError as error:  # its message is the address of an object: another one every run
            raise ItemError(f"image {self.path(item)} is damaged (no image format): replace the file") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ItemError(f"image {self.path(item)} is damaged ({error}): replace the file") from error
        if rgb.size != (item.width, item.height):
            raise ItemError(
                f"image {self.path(item)} is {rgb.width} x {rgb.height} pixels (width x height), but "
                f"{self.annotation_file.name} says {item.width} x {item.height}: replace one of them"
            )
        return rgb

    def item_digest(self, item: SceneItem) -> str:
        """SHA-256 of the image file's bytes, as hex.

        Raises:
            ItemError: if it cannot be read.
        """
        with self._readable(item):
            return file_hash(self.path(item))

    def dataset_digest(self) -> str:
        """SHA-256 of the annotation file's bytes, as hex."""
        return self._digest

    @contextlib.contextmanager
    def _readable(self, item: SceneItem) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ItemError(f"image {self.path(item)} cannot be read ({error.strerror}): restore the file") from error

    def _list_items(self) -> list[SceneItem]:
        items = [
            SceneItem(image["id"], image["file_name"], image["width"], image["height"])
            for image in self._content["images"]
        ]
        items.sort(key=lambda item: item.image_id)
        for one, other in pairwise(items):
            if one.image_id == other.image_id:
                raise DataError(f"{self.annotation_file} lists image id {one.image_id} twice: ids must be unique")
        if not items:
            raise DataError(f"{self.annotation_file} lists no images: at least one is needed")
        return items

    def _check_files(self) -> None:
        missing = [item.file_name for item in self.items if not self.path(item).is_file()]
        if missing:
            raise DataError(
                f"{self.annotation_file} names {len(missing)} image(s) that are not in {self.images_dir}, for example "
                f"{', '.join(missing[:3])}: restore them, or point the images folder elsewhere"
            )


def open_coco(data: Mapping[str, Any], *, limit: int | None, seed: int) -> CocoScenes:
    """A COCO-format data set as a `data` configuration describes it.

    Args:
        data: `root`, and relative to it `images` (folder) and `annotations` (file).
        limit: how many images to take; None for all.
        seed: not used: images come in the order of their ids.

    Raises:
        DataError: as CocoScenes does.
    """
    root = Path(data["root"])
    return CocoScenes(root / data["images"], root / data["annotations"], limit)


def category_ids(id2label: Mapping[int, str], coco: COCO) -> dict[int, int | None]:
    """COCO category id of each model label, matched by name; None for a label that is no category of the data.

    DETR's label list has gaps named "N/A" and placeholders, and a user's own data may have fewer categories than the
    model.

    Raises:
        DataError: if no label at all is a category, or two labels claim one category.
    """
    by_name = {category["name"]: category["id"] for category in coco.cats.values()}
    mapping = {int(label): by_name.get(name) for label, name in id2label.items()}
    claimed = [category for category in mapping.values() if category is not None]
    if not claimed:
        raise DataError(
            f"none of the model's labels ({_some(id2label.values())}) is a category of the data ({_some(by_name)}): "
            "labels and categories are matched by name, so use a model trained on these categories"
        )
    twice = sorted({coco.cats[category]["name"] for category in claimed if claimed.count(category) > 1})
    if twice:
        raise DataError(f"several model labels are named {_some(twice)}: each category needs exactly one label")
    return mapping


def category_of(label: int, mapping: Mapping[int, int | None], id2label: Mapping[int, str]) -> int | None:
    """Category id of a predicted label, None where it is no category: such a detection is neither right nor wrong here.

    Raises:
        DataError: for a label that the model does not have.
    """
    if label not in mapping:
        raise DataError(f"label {label} is none of the model's {len(id2label)} labels: the stored detections are stale")
    return mapping[label]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"annotation file {path} does not exist: check the path, or download the data") from error
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): it may be cut short, fetch it again") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{path} holds a {type(parsed).__name__}, expected COCO's object with images, annotations, ...")
    required = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
        "categories": ("id", "name"),
    }
    for part, keys in required.items():
        if not isinstance(parsed.get(part), list):
            raise DataError(f"{path} lacks the list '{part}': COCO's instances format has {', '.join(required)}")
        for number, record in enumerate(parsed[part]):
            missing = [key for key in keys if not isinstance(record, dict) or key not in record]
            if missing:
                raise DataError(f"{path}: {part}[{number}] lacks {', '.join(missing)}, which COCO's format requires")
    for number, image in enumerate(parsed["images"]):
        sizes = (image["width"], image["height"])
        if not all(isinstance(side, int) and side > 0 for side in sizes) or not isinstance(image["file_name"], str):
            raise DataError(f"{path}: images[{number}] needs a file name and a size in whole pixels > 0, got {image}")
        if not isinstance(image["id"], int):
            raise DataError(f"{path}: images[{number}] has id {image['id']!r}, expected a whole number")
    known = {image["id"] for image in parsed["images"]}
    classes = {category["id"] for category in parsed["categories"]}
    for number, annotation in enumerate(parsed["annotations"]):
        if annotation["image_id"] not in known:
            raise DataError(
                f"{path}: annotations[{number}] belongs to image {annotation['image_id']}, which 'images' does not list"
            )
        if annotation["category_id"] not in classes:
            raise DataError(
                f"{path}: annotations[{number}] has category {annotation['category_id']}, which 'categories' lacks"
            )
    return parsed
