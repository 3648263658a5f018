"""Figures 2, 3 and 4: relevance of DETR's detections, and the masks made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.figures.maps import colour_bar, show_input, show_map, show_mask
from hetexp.reporting.figures.style import PAGE, styled
from hetexp.reporting.names import PAPER_METHODS, method_name
from hetexp.reporting.samples import Sample

COLUMNS = 6  # as many detections as the paper shows


@dataclass(frozen=True)
class Column:
    """One detection of one sample."""

    sample: Sample
    row: int

    @property
    def detection(self) -> dict[str, Any]:
        """Its class, probability and box."""
        return self.sample.info["detections"][self.row]


def pick_columns(samples: Sequence[Sample], most: int = COLUMNS) -> list[Column]:
    """Detections for a figure: one of every sample in turn, so that all images are seen, in the samples' order."""
    taken: list[Column] = []
    depth = max((len(s.info["detections"]) for s in samples), default=0)
    for row in range(depth):
        taken += [Column(s, row) for s in samples if row < len(s.info["detections"])]
    taken = taken[:most]
    return sorted(taken, key=lambda c: (samples.index(c.sample), c.row))


Cell = Callable[[Axes, Column, str], None]


def grid(columns: Sequence[Column], methods: Sequence[str], cell: Cell, bar: str | None) -> Figure:
    """Input above, a row per method, a column per detection.

    Args:
        bar: label of the colour bar beside each method's row; None for masks, which have none.
    """
    if not columns:
        raise DataError("no sample has a detection: make the samples again with `python run.py task=samples`")
    shapes = [c.sample.image.shape for c in columns]
    tallest = max(s[0] / s[1] for s in shapes)
    left, right, top, gap = 0.22, 0.42 if bar else 0.02, 0.16, 0.03
    width = min((PAGE - left - right) / len(columns), 1.6)
    height = width * min(tallest, 1.35)
    total_width, total_height = left + right + width * len(columns), top + (len(methods) + 1) * height
    with styled():
        figure = plt.figure(figsize=(total_width, total_height))

        def place(row: int, column: int) -> Axes:
            x = left + column * width + gap / 2
            y = total_height - top - (row + 1) * height + gap / 2
            rect = (x / total_width, y / total_height, (width - gap) / total_width, (height - gap) / total_height)
            return figure.add_axes(rect)

        for j, column in enumerate(columns):
            ax = place(0, j)
            show_input(ax, column.sample.image, column.detection["box"])
            label = f"{column.detection['label']} {column.detection['score']:.2f}"
            ax.set_title(label, fontsize=7, pad=2.5)
            for i, method in enumerate(methods):
                cell(place(i + 1, j), column, method)
        for i, name in enumerate(["Input", *map(method_name, methods)]):
            y = total_height - top - (i + 0.5) * height
            figure.text(
                0.5 * left / total_width, y / total_height, name, rotation=90, ha="center", va="center", fontsize=7
            )
            if bar and i:
                x = left + width * len(columns) + 0.05
                rect = (x / total_width, (y - 0.36 * height) / total_height, 0.06 / total_width)
                colour_bar(
                    figure, (*rect, 0.72 * height / total_height), signed=methods[i - 1] == "ours_full", label=bar
                )
    return figure


def _relevance(ax: Axes, column: Column, method: str) -> None:
    show_map(ax, column.sample.image, column.sample.need(method)[column.row])


def draw_relevance(samples: Sequence[Sample], methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figure 2. Every map runs from its own minimum (dark) to its own maximum (bright), as it is binarised."""
    return grid(pick_columns(samples), methods, _relevance, bar="relevance, per map")


def draw_masks(samples: Sequence[Sample], scale: float, methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figures 3 (scale 1.0) and 4 (scale 0.3): the masks the evaluation sees."""

    def cell(ax: Axes, column: Column, method: str) -> None:
        show_mask(ax, column.sample.image, mask_of(column.sample, method, scale)[column.row])

    return grid(pick_columns(samples), methods, cell, bar=None)


def mask_of(sample: Sample, method: str, scale: float) -> np.ndarray:
    """Masks bool [k, H, W] of a sample.

    Raises:
        DataError: if the sample was made without them.
    """
    key = f"{method}@{scale:g}"
    if key not in sample.masks:
        raise DataError(
            f"sample {sample.folder} has no mask {key}: make the samples again, "
            f"`python run.py task=samples model=detr threshold.scale={scale:g}`"
        )
    return sample.masks[key]
