"""Picture files as a user gives them, and as data sets hold them."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from hetexp.errors import ConfigError, DataError


def open_image(path: Path, *, upright: bool = False) -> Image.Image:
    """An image file as RGB.

    Args:
        path: the file.
        upright: turn a photograph the way its EXIF orientation says it is shown. Images of data sets are left as they
            are stored: COCO's annotations and region features count pixels so.

    Raises:
        ConfigError: if there is no such file, or it is a folder.
        DataError: if it is no image.
    """
    if path.is_dir():
        raise ConfigError(f"image {str(path)!r} is a folder: give one image file, e.g. image={path / 'photo.jpg'}")
    if not path.is_file():
        raise ConfigError(f"image {str(path)!r} does not exist: give the path of an image file, e.g. image=photo.jpg")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata does not touch the pixels
            with Image.open(path) as image:
                return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): give a JPEG or PNG file") from error
