"""Segmentations of COCO's format as run lengths of the image's size, checked before pycocotools' C code reads them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pycocotools import mask as rle

from hetexp.data.problems import short

PIXELS = 2**32 - 1  # pycocotools' run lengths are 32 bits wide

# The compressed form: per run the base-32 digits of a signed number, the lowest first; '0' + digit + 32 if more follow.
_WELL_FORMED = re.compile(rb"(?:[P-o]{0,6}[0-O])+")


def run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """The compressed run lengths that pycocotools makes of a segmentation.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, x3, y3, ...], ...] in pixels, or run lengths
            {"size": [height, width], "counts": list or compressed text}.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        {"size": [height, width], "counts": compressed}.

    Raises:
        ValueError: saying what is wrong and what is expected.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation, height, width)
        return dict(rle.merge(rle.frPyObjects(segmentation, height, width)))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(f"segmentation {short(segmentation)}, expected polygons, or run lengths with size and counts")
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise ValueError(
            f"run lengths of size {short(size)} (height, width), but the image is {height} x {width}: masks must have "
            "the size of their image"
        )
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts):
            raise ValueError(f"run lengths {short(counts)}, expected whole numbers of at least 0")
        total = sum(counts)
    elif isinstance(counts, str | bytes):
        total = _decoded(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"run lengths {short(counts)}, expected a list, or COCO's compressed text")
    if total != height * width:
        raise ValueError(f"run lengths that add up to {total} pixels, but the image has {height * width}")
    if isinstance(counts, list):
        return dict(rle.frPyObjects({"size": size, "counts": counts}, height, width))
    return {"size": size, "counts": counts}


def _check_polygons(polygons: list[Any], height: int, width: int) -> None:
    if not polygons:
        raise ValueError(
            "an empty segmentation, expected at least one polygon: remove the annotation, or draw its mask"
        )
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(type(v) in (int, float) for v in polygon):
            raise ValueError(f"polygon {short(polygon)}, expected a list of numbers [x1, y1, x2, y2, x3, y3, ...]")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon of {len(polygon)} numbers {short(polygon)}, expected at least three points of two "
                "(x1, y1, x2, y2, x3, y3, ...)"
            )
        for values, side, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
            # beyond its own size outside the image, a point is a mistake, and pycocotools runs along every pixel to it
            wrong = [v for v in values if not -side <= v <= 2 * side]  # NaN too
            if wrong:
                raise ValueError(f"a polygon with {axis}={short(wrong[0])}, expected pixels within 0..{side}")


def _decoded(text: bytes) -> int:
    """Sum of compressed run lengths.

    Raises:
        ValueError: if the text is none, or a run would be negative.
    """
    if not _WELL_FORMED.fullmatch(text):
        raise ValueError(f"counts {short(text)}, which are no run lengths in COCO's compressed form")
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    last = digits < 32
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    place = np.arange(len(digits)) - np.repeat(starts, np.diff(np.r_[starts, len(digits)]))
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    top = 5 * (place[last] + 1)
    values -= ((digits[last] & 16) > 0) * (np.int64(1) << top)  # two's complement
    runs = values.copy()  # from the fourth on, a run is stored as its difference to the last but one
    runs[1::2] = values[1::2].cumsum()
    runs[2::2] = values[2::2].cumsum()
    if (runs < 0).any() or (runs > PIXELS).any():
        raise ValueError(f"counts {short(text)} with the run {runs[(runs < 0) | (runs > PIXELS)][0]}, expected >= 0")
    return int(runs.sum())
