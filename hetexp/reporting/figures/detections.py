"""Figures 2, 3 and 4: relevance of detections, and the masks made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pycocotools import mask as rle

from hetexp.errors import DataError
from hetexp.reporting.commands import SAMPLES
from hetexp.reporting.contrast import Contrast
from hetexp.reporting.figures.maps import (
    broken,
    colour_bar,
    diverges,
    runs_of,
    show_input,
    show_map,
    show_mask,
    show_nothing,
)
from hetexp.reporting.figures.marks import note, outline, percent, quiet_corner, share_inside
from hetexp.reporting.figures.questions import BAR_LABELS, BAR_ROOM, LEAST_PICTURE
from hetexp.reporting.figures.scales import NOT_FINITE, Shown, scales_of
from hetexp.reporting.figures.sheet import Sheet
from hetexp.reporting.figures.style import PAGE, PAGE_HEIGHT, styled
from hetexp.reporting.names import PAPER_METHODS, method_name
from hetexp.reporting.samples import StoredExplanation

COLUMNS = 6  # as many detections as the paper shows


@dataclass(frozen=True)
class Column:
    """One detection of one sample."""

    sample: StoredExplanation
    row: int

    @property
    def detection(self) -> dict[str, Any]:
        """Its class, probability and box."""
        found: dict[str, Any] = self.sample.info["detections"][self.row]
        return found

    @property
    def object(self) -> np.ndarray | None:
        """Mask [H, W] of the annotated object that was detected; None where there is none."""
        thing = self.sample.objects[self.row]
        return None if thing is None else thing.mask


def pick_columns(samples: Sequence[StoredExplanation], most: int = COLUMNS) -> list[Column]:
    """Detections for a figure: one of every sample in turn, so that all images are seen, in the samples' order."""
    taken: list[Column] = []
    depth = max((len(s.info["detections"]) for s in samples), default=0)
    for row in range(depth):
        taken += [Column(s, row) for s in samples if row < len(s.info["detections"])]
    taken = taken[:most]
    return sorted(taken, key=lambda c: (samples.index(c.sample), c.row))


Cell = Callable[[Axes, int, Column], None]  # draws a cell of the row of that number


def grid(
    columns: Sequence[Column],
    methods: Sequence[str],
    cell: Cell,
    foot: str,
    signed: Sequence[bool] = (),
    contrast: Contrast = Contrast.own,
) -> Figure:
    """Input above, a row per method, a column per detection; the detected object is outlined everywhere.

    Args:
        foot: what is said below.
        signed: of each row, whether its colours diverge about 0, for the colour bars; none for masks.
        contrast: what the colour bars stand for.

    Raises:
        DataError: without a detection or a method.
    """
    if not columns or not methods:
        what = "detection" if not columns else "method of the figure"
        raise DataError(f"no sample has a {what}: make the samples again with `{SAMPLES['detection']}`")
    tallest = max(c.sample.ground.shape[0] / c.sample.ground.shape[1] for c in columns)
    left, right, top, gap, below = 0.22, BAR_ROOM[contrast] if signed else 0.02, 0.16, 0.03, 0.14
    shape = min(tallest, 1.35)
    # as large as the columns and the page's height allow, and never too small to see
    free = (PAGE_HEIGHT - top - below) / (len(methods) + 1)
    width = min((PAGE - left - right) / len(columns), 1.6, max(free, LEAST_PICTURE) / shape)
    height = width * shape
    with styled():
        sheet = Sheet(left + right + width * len(columns), top + (len(methods) + 1) * height + below)
        for j, column in enumerate(columns):
            x = left + j * width + gap / 2
            axes = [sheet.axes(x, top + i * height, width - gap, height - gap) for i in range(len(methods) + 1)]
            show_input(axes[0], column.sample.ground, column.sample.pixels(column.detection["box"]))
            label = f"{column.detection['label']} {column.detection['score']:.2f}"
            axes[0].set_title(label, fontsize=7, pad=2.5)
            for i, ax in enumerate(axes[1:]):
                cell(ax, i, column)
            for ax in axes:
                if column.object is not None:
                    outline(ax, column.object)
        for i, name in enumerate(["Input", *(broken(method_name(m), height) for m in methods)]):
            sheet.text(left / 2, top + (i + 0.5) * height, name, upright=True)
        for start, end in runs_of(signed):
            tall = min((end - start + 0.72) * height, 2.2)
            middle = top + ((start + end) / 2 + 1.5) * height
            place = sheet.rect(left + width * len(columns) + 0.03, middle - tall / 2, 0.06, tall)
            colour_bar(sheet.figure, place, signed[start], contrast, BAR_LABELS[contrast])
        sheet.text(sheet.width / 2, sheet.height - below + 0.03, foot, size=6)
    return sheet.figure


def draw_relevance(
    samples: Sequence[StoredExplanation],
    methods: Sequence[str] = PAPER_METHODS,
    contrast: Contrast = Contrast.own,
) -> Figure:
    """Figure 2: maps, and in a corner of each the share of its positive relevance inside the detected object."""
    columns = pick_columns(samples)
    maps = [[c.sample.need(method)[c.row] for c in columns] for method in methods]
    signed = [diverges(method, row) for method, row in zip(methods, maps, strict=True)]
    scales = [scales_of(row, s, contrast) for row, s in zip(maps, signed, strict=True)]

    def cell(ax: Axes, row: int, column: Column) -> None:
        number = columns.index(column)
        shown: Shown = scales[row][number]
        show_map(ax, column.sample.ground, maps[row][number], shown)
        if column.object is not None and not isinstance(shown, str):
            share = share_inside(maps[row][number], column.object)
            note(ax, percent(share), quiet_corner(column.object))

    foot = "White outline: the object detected, as annotated. Number: share of the positive relevance inside it."
    return grid(columns, methods, cell, foot, signed, contrast)


def draw_masks(samples: Sequence[StoredExplanation], scale: float, methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figures 3 (scale 1.0) and 4 (scale 0.3): the masks the evaluation sees, and their IoU with the object's."""

    def cell(ax: Axes, row: int, column: Column) -> None:
        sample, method = column.sample, methods[row]
        if not np.isfinite(sample.need(method)).all():  # such relevance has no threshold, and so no mask
            show_nothing(ax, sample.ground, NOT_FINITE)
            return
        mask = sample.mask(method, scale)[column.row]
        show_mask(ax, sample.ground, mask)
        if column.object is not None:
            note(ax, f"IoU {mask_iou(mask, column.object):.2f}", quiet_corner(column.object))

    foot = (
        f"Masks at {scale:.1f} × Otsu's threshold. White outline: the object detected, as annotated. "
        "Number: intersection over union of the mask and the object."
    )
    return grid(pick_columns(samples), methods, cell, foot)


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks [H, W], as COCO's evaluation has it."""
    coded = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (one, other)]
    return float(rle.iou(coded[:1], coded[1:], [0])[0, 0])
