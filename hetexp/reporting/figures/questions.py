"""Figures 5, 7 and 8: relevance of image regions and of a question's words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.commands import SAMPLES
from hetexp.reporting.figures.maps import (
    broken,
    colour_bar,
    diverges,
    show_input,
    show_map,
    show_nothing,
    show_regions,
    show_tokens,
    token_rows,
)
from hetexp.reporting.figures.style import PAGE, styled
from hetexp.reporting.names import PAPER_METHODS, method_name
from hetexp.reporting.samples import StoredExplanation

TOKEN_SIZE = 5.6  # points
SCALE_NOTE = (
    "Each map runs from its own minimum (dark) to its own maximum; signed: red raises y, blue lowers it, white is 0."
)


@dataclass(frozen=True)
class Row:
    """One row of a figure: its label and which relevance it shows."""

    label: str
    key: str
    signed: bool = False
    detail: bool = False  # print below each picture what y was


class Sheet:
    """A figure whose places are given in inches from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = plt.figure(figsize=(width, height))

    def rect(self, x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """That place in the figure's own units."""
        return x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height

    def axes(self, x: float, y: float, w: float, h: float) -> Axes:
        return self.figure.add_axes(self.rect(x, y, w, h))

    def text(self, x: float, y: float, text: str, size: float = 7, upright: bool = False) -> None:
        """Text centred at x; its top at y, or, upright, its middle."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            ha="center",
            va="center" if upright else "top",
            rotation=90 if upright else 0,
            fontsize=size,
            linespacing=1.15,
        )


def words_height(samples: Sequence[StoredExplanation], width: float) -> float:
    """Inches that the longest question's words need below a picture of `width` inches."""
    lines = max(len(token_rows(s.tokens[1:], 72 * width, TOKEN_SIZE)) for s in samples)
    return lines * 1.75 * TOKEN_SIZE / 72 + 0.05


def picture_height(samples: Sequence[StoredExplanation], width: float) -> float:
    """Inches that the tallest image needs at a width of `width` inches."""
    return width * min(max(s.ground.shape[0] / s.ground.shape[1] for s in samples), 1.2)


def draw_cell(
    sheet: Sheet, place: tuple[float, float, float, float, float], sample: StoredExplanation, row: Row
) -> None:
    """Regions over the image and words below it; place: x, y, width, heights of picture and words, in inches."""
    x, y, width, picture, words = place
    image, text = sample.need(f"{row.key}/image"), sample.need(f"{row.key}/text")
    shaded = sheet.axes(x, y, width, picture)
    shaded.set_anchor("S")  # next to its words, whatever the image's shape
    if not (np.isfinite(image).all() and np.isfinite(text).all()):
        show_nothing(shaded, sample.ground)
        return
    image_bound = float(np.abs(image).max()) if row.signed else None
    text_bound = float(np.abs(text).max()) if row.signed else None
    if image.ndim == 2:
        show_map(shaded, sample.ground, image, row.signed)
    else:
        show_regions(shaded, sample.ground, sample.regions, image, image_bound)
    show_tokens(sheet.axes(x, y + picture + 0.03, width, words), sample.tokens, text, text_bound, TOKEN_SIZE)


def draw_grid(samples: Sequence[StoredExplanation], rows: Sequence[Row], bar: str) -> Figure:
    """Inputs above, then a row per kind of relevance; a column per question.

    Raises:
        DataError: without a question or a row.
    """
    if not samples or not rows:
        what = "question" if not samples else "method of the figure"
        raise DataError(f"no sample has a {what}: make the samples again with `{SAMPLES['vqa']}`")
    left, right, gap, head = 0.24, 0.44, 0.08, 0.36
    width = min((PAGE - left - right) / len(samples), 1.9)
    inner = width - gap
    picture, words = picture_height(samples, inner), words_height(samples, inner)
    row_height = picture + words + 0.07 + (0.13 if any(r.detail for r in rows) else 0.0)
    first = head + picture + 0.07
    with styled():
        sheet = Sheet(left + right + width * len(samples), first + row_height * len(rows))
        for j, sample in enumerate(samples):
            x = left + j * width + gap / 2
            title = "\n".join(textwrap.wrap(sample.info["question"], int(72 * inner / 3.9), max_lines=2))
            sheet.text(x + inner / 2, 0.01, f"{title}\n→ {sample.info['answers'][0]['answer']}", size=6.6)
            show_input(sheet.axes(x, head, inner, picture), sample.ground)
            for i, row in enumerate(rows):
                y = first + i * row_height
                draw_cell(sheet, (x, y, inner, picture, words), sample, row)
                if row.detail:
                    sheet.text(x + inner / 2, y + picture + words + 0.02, target_text(sample, row.key), size=6)
        sheet.text(left / 2, head + picture / 2, "Input", upright=True)
        for i, row in enumerate(rows):
            middle = first + i * row_height + picture / 2
            sheet.text(left / 2, middle, broken(row.label, row_height), upright=True)
            place = sheet.rect(left + len(samples) * width + 0.04, middle - 0.36 * picture, 0.06, 0.72 * picture)
            colour_bar(sheet.figure, place, row.signed, bar)
    return sheet.figure


def draw_across(sample: StoredExplanation, rows: Sequence[Row], columns: int = 4) -> Figure:
    """One question: the input if it is known, then one picture per kind of relevance, set in lines of `columns`."""
    lines = [part for part in (sample.info.get("question"), _answers(sample), _asked_target(sample)) if part]
    width, gap, line = 1.75, 0.1, 0.11
    head = 0.4 + line * max(0, len(lines) - 2)
    inner = width - gap
    cells = [*([] if sample.image is None else [None]), *rows]
    columns = min(columns, len(cells))
    picture, words = picture_height([sample], inner), words_height([sample], inner)
    with styled():
        labels = ["Input" if row is None else broken(row.label, inner) for row in cells]
        title = 0.06 + line * max(1 + label.count("\n") for label in labels)
        step = title + picture + words + 0.06
        sheet = Sheet(columns * width, head + step * math.ceil(len(cells) / columns) + 0.14)
        sheet.text(columns * width / 2, sheet.height - 0.13, SCALE_NOTE, size=6)
        sheet.text(columns * width / 2, 0.02, "\n".join(lines), size=7.5)
        for number, (label, row) in enumerate(zip(labels, cells, strict=True)):
            x, y = number % columns * width + gap / 2, head + number // columns * step
            sheet.text(x + inner / 2, y, label)
            if row is None:
                show_input(sheet.axes(x, y + title, inner, picture), sample.ground)
            else:
                draw_cell(sheet, (x, y + title, inner, picture, words), sample, row)
    return sheet.figure


def _answers(sample: StoredExplanation) -> str:
    """The three most probable answers."""
    found = sample.info.get("answers") or []
    answers = ", ".join(f"{a['answer']} {a['probability']:.2f}" for a in found[:3])
    return f"→ {answers}" if answers and sample.info.get("question") else answers


def _asked_target(sample: StoredExplanation) -> str:
    """What y was, where it is not the logit of the answer given: "y = logit(yes) − logit(no)"."""
    rows = sample.info.get("rows") or []
    return "" if not rows or rows[0]["target"] == f"logit({rows[0]['label']})" else f"y = {rows[0]['target']}"


def target_text(sample: StoredExplanation, key: str) -> str:
    """What y was, e.g. "y = logit(yes) − logit(no)"."""
    best, other = sample.info["contrast"]
    return f"y = logit({best}) − logit({other})" if key.endswith(":difference") else f"y = logit({best})"


def draw_methods(samples: Sequence[StoredExplanation], methods: Sequence[str] = PAPER_METHODS) -> Figure:
    """Figure 5: a row per method. Each map runs from its own minimum to its own maximum."""
    return draw_grid(samples, [method_row(samples, m) for m in methods], bar="relevance, per map")


def method_row(samples: Sequence[StoredExplanation], method: str, target: str | None = None) -> Row:
    """The row of a method, for the first target explained or for a further one."""
    key = method if target is None else f"{method}:{target}"
    maps = (s.need(f"{key}/{stream}") for s in samples for stream in ("image", "text"))
    label = method_name(method)
    return Row(label if target is None else f"{label}, {target}", key, diverges(method, maps))


def draw_semantics(samples: Sequence[StoredExplanation]) -> Figure:
    """Figure 7: homologous parts only, absolute gradients: what each encoder attends to before the sources meet."""
    return draw_grid(samples, [Row("Ours (abs), homologous", "homologous")], bar="relevance, per map")


def draw_logic(samples: Sequence[StoredExplanation]) -> Figure:
    """Figure 8: signed relevance of (a) the answer's logit and (b) its difference to the opposite answer."""
    rows = [
        Row("(a) single logit", "ours_full", signed=True, detail=True),
        Row("(b) difference", "ours_full:difference", signed=True, detail=True),
    ]
    return draw_grid(samples, rows, bar="relevance, per map")
