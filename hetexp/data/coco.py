"""Images and annotations of a COCO-format folder: val2017 as released, the embedded scenes, or a user's own."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as rle
from pycocotools.coco import COCO

from hetexp.data.annotations import read_annotations
from hetexp.errors import DataError
from hetexp.files import content_hash, file_hash


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
        DataError: if the folder or the annotation file is missing, is not valid JSON, is not sound (see
            `read_annotations`) or names an image that is not there.
    """

    def __init__(self, images_dir: str | Path, annotation_file: str | Path, limit: int | None = None) -> None:
        self.images_dir, self.annotation_file = Path(images_dir), Path(annotation_file)
        if limit is not None and limit < 1:
            raise DataError(f"limit must be at least 1 image, got {limit}: leave it out to take all")
        if not self.images_dir.is_dir():
            raise DataError(f"image folder {self.images_dir} does not exist: check the path, or download the data")
        self._annotations = read_annotations(self.annotation_file)
        self._digest = file_hash(self.annotation_file)
        self.items = [
            SceneItem(image["id"], image["file_name"], image["width"], image["height"])
            for image in self._annotations.images[:limit]
        ]
        self._check_files()

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def coco(self) -> COCO:
        """The annotations as pycocotools' COCO object: all images, whatever the limit; ids of annotations from 1 on."""
        coco = COCO()
        coco.dataset = {
            "images": self._annotations.images,
            "annotations": self._annotations.annotations,
            "categories": self._annotations.categories,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    @property
    def categories(self) -> dict[int, str]:
        """Category names by category id."""
        return {category["id"]: category["name"] for category in self._annotations.categories}

    def union(self, annotation_ids: Sequence[int], image: str) -> NDArray[np.bool_]:
        """Mask [H, W] of one or several annotations of one image.

        Args:
            annotation_ids: as in the file.
            image: name of the image without folder and suffix.

        Raises:
            DataError: for an id that the file lacks, and for an annotation of another image.
        """
        numbers = self._annotations.numbers
        unknown = [number for number in annotation_ids if number not in numbers]
        if unknown:
            raise DataError(
                f"annotation id {unknown[0]!r} is not in {self.annotation_file}: take files that belong together"
            )
        found = [self.coco.anns[numbers[number]] for number in annotation_ids]
        for annotation, number in zip(found, annotation_ids, strict=True):
            name = self.coco.imgs[annotation["image_id"]]["file_name"]
            if Path(name).stem != image:
                raise DataError(
                    f"annotation id {number} of {self.annotation_file} is of image {name}, not of {image}: take files "
                    "that belong together"
                )
        return np.asarray(rle.decode(rle.merge([annotation["segmentation"] for annotation in found])), dtype=bool)

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
        """Hash of the image file's bytes and the size that the annotations say it has, as hex.

        Raises:
            ItemError: if it cannot be read.
        """
        with self._readable(item):
            return content_hash([file_hash(self.path(item)), item.width, item.height])

    def dataset_digest(self) -> str:
        """SHA-256 of the annotation file's bytes, as hex."""
        return self._digest

    @contextlib.contextmanager
    def _readable(self, item: SceneItem) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ItemError(f"image {self.path(item)} cannot be read ({error.strerror}): restore the file") from error

    def _check_files(self) -> None:
        missing = [repr(item.file_name) for item in self.items if not _is_file(self.path(item))]
        if missing:
            raise DataError(
                f"{self.annotation_file} names {len(missing)} image(s) that are not in {self.images_dir}, for example "
                f"{', '.join(missing[:3])}: restore them, or point the images folder elsewhere"
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False


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
