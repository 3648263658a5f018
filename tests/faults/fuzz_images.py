"""Damaged image files, detected, explained and scored; Pillow alone is the second opinion."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from random import Random

import numpy as np
from fuzz_annotations import Toy
from mutate import mutated_bytes
from numpy.typing import NDArray
from PIL import Image

from hetexp.data.pictures import open_image
from hetexp.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")  # whatever the suffix says: Pillow looks at the content


class Images(Toy):
    """One image of the data, in several formats and with an EXIF orientation; now and then read as a user's own too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.content["images"] = self.content["images"][:2]
        ids = {image["id"] for image in self.content["images"]}
        self.content["annotations"] = [a for a in self.content["annotations"] if a["image_id"] in ids]
        self.file.write_text(json.dumps(self.content), encoding="utf-8")
        self.image = self.root / "images" / self.content["images"][0]["file_name"]
        self.sound = self.image.read_bytes()
        self.pixels = _decoded(self.sound)

    def damage(self, rng: Random) -> bytes:
        """Write a damaged image file."""
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = rng.randrange(1, 9)
        Image.fromarray(self.pixels).save(buffer, rng.choice(FORMATS), exif=exif)
        content = mutated_bytes(rng, buffer.getvalue())
        self.image.write_bytes(content)
        return content

    def number(self) -> dict[str, float | None]:
        """The metrics of a run; the image is opened as a user's own before."""
        with contextlib.suppress(DataError):
            open_image(self.image, upright=True)
        return super().number()

    def confirmed(self, content: bytes, number: dict[str, float | None]) -> bool:
        """Whether the damage left another picture of the same size, as Pillow reads it."""
        found = _decoded(content)
        return found.shape == self.pixels.shape and not np.array_equal(found, self.pixels)


def _decoded(content: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
        warnings.simplefilter("ignore")
        return np.asarray(image.convert("RGB"))
