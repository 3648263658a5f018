"""Pictures that users bring: read in memory, checked before a pixel is decoded, never written to disk."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from hetexp.errors import DataError

MOST_BYTES = 20 * 2**20  # of an uploaded file
MOST_PIXELS = 50_000_000  # of a picture: 150 MB decoded
LEAST_SIDE = 16  # pixels
LONGEST_ASPECT = 8  # long side over short side; regions of pictures longer than that are not defined
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # decoders that may run on what users bring
SHOWN_SIDE = 1024  # longest side of the picture on the page, pixels


def decode(data: bytes) -> Image.Image:
    """The RGB picture in a file's bytes, turned the way its EXIF orientation says.

    Only the decoders of `FORMATS` are tried, whatever the file is called. Sizes are read from the header and checked
    before any pixel is decoded, so a small file that stands for a huge picture costs nothing.

    Raises:
        DataError: for a file that is too large, is no picture, is damaged, or holds too many or too few pixels.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"the file has more than {MOST_BYTES // 2**20} MB: save the picture smaller")
    kinds = ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata does not touch the pixels
            with Image.open(io.BytesIO(data), formats=FORMATS) as header:
                _check_size(*header.size)
                header.verify()
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:  # `verify` leaves nothing to read from
                return ImageOps.exif_transpose(picture).convert("RGB")
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"this file is no picture, whatever its name says (it begins with {data[:16]!r}): give a {kinds} file"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the picture is damaged ({error}): save it again as JPEG or PNG") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(
            f"the picture has {width} x {height} pixels, more than {MOST_PIXELS // 10**6} million: save it smaller"
        )
    if min(width, height) < LEAST_SIDE or max(width, height) > LONGEST_ASPECT * min(width, height):
        raise DataError(
            f"the picture has {width} x {height} pixels: each side must have at least {LEAST_SIDE}, and the long one "
            f"at most {LONGEST_ASPECT} times as many as the short one"
        )


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture on the page: its longest side has `SHOWN_SIDE` pixels."""
    scale = SHOWN_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def preview(picture: Image.Image) -> bytes:
    """A JPEG of the picture, not larger than it is shown."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
