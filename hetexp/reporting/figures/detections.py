"""Figures 2, 3 and 4: relevance of detections, and the masks made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.commands import SAMPLES
from hetexp.reporting.figures.maps import broken, colour_bar, diverges, show_input, show_map, show_mask, show_nothing
from hetexp.reporting.figures.style import PAGE, styled
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


def pick_columns(samples: Sequence[StoredExplanation], most: int = COLUMNS) -> list[Column]:
    """Detections for a figure: one of every sample in turn, so that all images are seen, in the samples' order."""
    taken: list[Column] = []
    depth = max((len(s.info["detections"]) for s in samples), default=0)
    for row in range(depth):
        taken += [Column(s, row) for s in samples if row < len(s.info["detections"])]
    taken = taken[:most]
    return sorted(taken, key=lambda c: (samples.index(c.sample), c.row))


@dataclass(frozen=True)
class Row:
    """One method's row."""

    method: str
    signed: bool


Cell = Callable[[Axes, Column, Row], None]


def grid(columns: Sequence[Column], rows: Sequence[Row], cell: Cell, bar: str | None) -> Figure:
    """Input above, a row per method, a column per detection.

    Args:
        bar: label of the colour bar beside each method's row; None for masks, which have none.

    Raises:
        DataError: without a detection or a method.
    """
    if not columns or not rows:
        what = "detection" if not columns else "method of the figure"
        raise DataError(f"no sample has a {what}: make the samples again with `{SAMPLES['detection']}`")
    shapes = [c.sample.ground.shape for c in columns]
    tallest = max(s[0] / s[1] for s in shapes)
    left, right, top, gap = 0.22, 0.42 if bar else 0.02, 0.16, 0.03
    width = min((PAGE - left - right) / len(columns), 1.6)
    height = width * min(tallest, 1.35)
    total_width, total_height = left + right + width * len(columns), top + (len(rows) + 1) * height
    with styled():
        figure = plt.figure(figsize=(total_width, total_height))

        def place(row: int, column: int) -> Axes:
            x = left + column * width + gap / 2
            y = total_height - top - (row + 1) * height + gap / 2
            rect = (x / total_width, y / total_height, (width - gap) / total_width, (height - gap) / total_height)
            return figure.add_axes(rect)

        for j, column in enumerate(columns):
            ax = place(0, j)
            show_input(ax, column.sample.ground, column.sample.pixels(column.detection["box"]))
            label = f"{column.detection['label']} {column.detection['score']:.2f}"
            ax.set_title(label, fontsize=7, pad=2.5)
            for i, row in enumerate(rows):
                cell(place(i + 1, j), column, row)
        for i, name in enumerate(["Input", *(broken(method_name(r.method), height) for r in rows)]):
            y = total_height - top - (i + 0.5) * height
            figure.text(
                0.5 * left / total_width, y / total_height, name, rotation=90, ha="center", va="center", fontsize=7
            )
            if bar and i:
                x = left + width * len(columns) + 0.05
                rect = (x / total_width, (y - 0.36 * height) / total_height, 0.06 / total_width)
                colour_bar(figure, (*rect, 0.72 * height / total_height), signed=rows[i - 1].signed, label=bar)
    return figure


def _row(columns: Sequence[Column], method: str) -> Row:
    return Row(method, diverges(method, (c.sample.need(method)[c.row] for c in columns)))


def draw_relevance(samples: Sequence[StoredExplanation], methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figure 2. Every map runs from its own minimum (dark) to its own maximum (bright), as it is binarised."""

    def cell(ax: Axes, column: Column, row: Row) -> None:
        show_map(ax, column.sample.ground, column.sample.need(row.method)[column.row], row.signed)

    columns = pick_columns(samples)
    return grid(columns, [_row(columns, m) for m in methods], cell, bar="relevance, per map")


def draw_masks(samples: Sequence[StoredExplanation], scale: float, methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figures 3 (scale 1.0) and 4 (scale 0.3): the masks the evaluation sees."""

    def cell(ax: Axes, column: Column, row: Row) -> None:
        sample = column.sample
        if np.isfinite(sample.need(row.method)).all():
            show_mask(ax, sample.ground, sample.mask(row.method, scale)[column.row])
        else:  # such relevance has no threshold, and so no mask
            show_nothing(ax, sample.ground)

    return grid(pick_columns(samples), [Row(m, signed=False) for m in methods], cell, bar=None)
