"""Figures 5, 7 and 8: relevance of image regions and of a question's words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.commands import SAMPLES
from hetexp.reporting.contrast import Contrast
from hetexp.reporting.figures.maps import (
    broken,
    colour_bar,
    diverges,
    paint_regions,
    runs_of,
    show_input,
    show_map,
    show_regions,
    show_tokens,
    token_rows,
)
from hetexp.reporting.figures.marks import note, outline, percent, quiet_corner, share_inside
from hetexp.reporting.figures.scales import Shown, own_scale, scales_of
from hetexp.reporting.figures.sheet import Sheet
from hetexp.reporting.figures.style import PAGE, PAGE_HEIGHT, styled
from hetexp.reporting.names import PAPER_METHODS, method_name
from hetexp.reporting.samples import StoredExplanation

TOKEN_SIZE = 7.0  # points
LEAST_PICTURE = 0.6  # inches in height; more rows than a page holds make a longer figure
STREAMS = ("image", "text")
SCALE_NOTE = (
    "Each map runs from its own minimum (dark) to its own maximum; signed: red raises y, blue (hatched, dashed) "
    "lowers it, white is 0."
)


BAR_LABELS = {
    Contrast.own: "relevance, range of each map",
    Contrast.shared: "relevance, range of the row",
    Contrast.log: "relevance, in parts of each map's maximum",
}
BAR_ROOM = {Contrast.own: 0.58, Contrast.shared: 0.58, Contrast.log: 0.72}  # inches of a colour bar with its words


@dataclass(frozen=True)
class Row:
    """One row of a figure: its label and which relevance it shows."""

    label: str
    key: str
    signed: bool = False
    detail: bool = False  # print below each picture what y was


def words_height(samples: Sequence[StoredExplanation], width: float) -> float:
    """Inches that the longest question's words need below a picture of `width` inches."""
    lines = max(len(token_rows(s.tokens[1:], 72 * width, TOKEN_SIZE)) for s in samples)
    return lines * 1.75 * TOKEN_SIZE / 72 + 0.05


def picture_height(samples: Sequence[StoredExplanation], width: float) -> float:
    """Inches that the tallest image needs at a width of `width` inches."""
    return width * min(max(s.ground.shape[0] / s.ground.shape[1] for s in samples), 1.2)


Masks = Sequence[np.ndarray]  # of objects, bool [H, W] each
Objects = Callable[[StoredExplanation], Masks]
Shades = Sequence[Shown]  # of the image and of the words
Scales = Callable[[Sequence[StoredExplanation], Sequence["Row"], Contrast], list[list[Shades]]]


def draw_cell(
    sheet: Sheet,
    place: tuple[float, float, float, float, float],
    sample: StoredExplanation,
    row: Row,
    shades: Shades,
    objects: Masks = (),
) -> None:
    """Regions over the image and words below it, objects outlined and the share of relevance inside them in a corner.

    Args:
        place: x, y, width, heights of picture and words, in inches.
        shades: scales of the image's and of the words' relevance.
    """
    x, y, width, picture, words = place
    image, text = (sample.need(f"{row.key}/{stream}") for stream in STREAMS)
    shaded = sheet.axes(x, y, width, picture)
    shaded.set_anchor("S")  # next to its words, whatever the image's shape
    if image.ndim == 2:
        show_map(shaded, sample.ground, image, shades[0])
    else:
        show_regions(shaded, sample.ground, sample.regions, image, shades[0])
    for mask in objects:
        outline(shaded, mask)
    if objects and not isinstance(shades[0], str):
        inside, boxes = np.any(objects, axis=0), None if image.ndim == 2 else sample.regions
        shares = percent(share_inside(image, inside, boxes))
        if row.signed:
            shares = f"+ {shares}\n− {percent(share_inside(-image, inside, boxes))}"
        note(shaded, shares, quiet_corner(inside))
    show_tokens(sheet.axes(x, y + picture + 0.03, width, words), sample.tokens, text, shades[1], TOKEN_SIZE)


def _seen(sample: StoredExplanation, row: Row, stream: str) -> np.ndarray:
    """Relevance as far as it is seen: of regions that overlap, that of the strongest at each place."""
    found = sample.need(f"{row.key}/{stream}")
    if stream != "image" or found.ndim == 2 or not np.isfinite(found).all():
        return found
    height, width = sample.ground.shape[:2]
    painted = paint_regions(sample.regions, found, (height, width))
    return painted if np.ptp(painted) > 0 else found  # the strongest may hide all others


def own_shades(sample: StoredExplanation, row: Row) -> Shades:
    """Scales of a cell that is looked at alone."""
    return [own_scale(_seen(sample, row, stream), row.signed) for stream in STREAMS]


def scales_by_row(samples: Sequence[StoredExplanation], rows: Sequence[Row], contrast: Contrast) -> list[list[Shades]]:
    """Scales of every row's cells, where maps of a row have one unit."""
    found: list[list[Shades]] = []
    for row in rows:
        streams = ([_seen(s, row, stream) for s in samples] for stream in STREAMS)
        found.append(list(zip(*(scales_of(maps, row.signed, contrast) for maps in streams), strict=True)))
    return found


def scales_by_column(
    samples: Sequence[StoredExplanation], rows: Sequence[Row], contrast: Contrast
) -> list[list[Shades]]:
    """Scales of rows that show one method: one range for a question's maps, or shared for those of all questions."""
    groups = [list(samples)] if contrast is Contrast.shared else [[s] for s in samples]
    by_row: list[list[Shades]] = [[] for _ in rows]
    for group in groups:
        cells = [(i, s) for i in range(len(rows)) for s in group]
        streams = ([_seen(s, rows[i], stream) for i, s in cells] for stream in STREAMS)
        signed = any(row.signed for row in rows)
        shades = zip(*(scales_of(maps, signed, contrast, together=True) for maps in streams), strict=True)
        for (i, _), of_cell in zip(cells, shades, strict=True):
            by_row[i].append(of_cell)
    return by_row


def draw_grid(
    samples: Sequence[StoredExplanation],
    rows: Sequence[Row],
    contrast: Contrast = Contrast.own,
    scales: Scales = scales_by_row,
    bar: str = "",
    objects: Objects = lambda sample: (),
    foot: str = "",
) -> Figure:
    """A row per kind of relevance, a column per question; inputs above, or once at the left if all ask of one image.

    Args:
        scales: of all cells.
        bar: label of the colour bars.
        objects: what is outlined in a question's pictures.
        foot: what is said below.

    Raises:
        DataError: without a question or a row.
    """
    if not samples or not rows:
        what = "question" if not samples else "method of the figure"
        raise DataError(f"no sample has a {what}: make the samples again with `{SAMPLES['vqa']}`")
    once = len(samples) > 1 and len({s.info["item"] for s in samples}) == 1
    names, right, gap = 0.24, BAR_ROOM[contrast], 0.08
    width = min((PAGE - names - right) / (len(samples) + once), 1.9)
    left, inner = names + width * once, width - gap
    titles = [_title(sample, inner) for sample in samples]
    lines = max(title.count("\n") + 1 for title in titles)
    head = 0.05 + 0.116 * lines
    words = words_height(samples, inner)
    below = 0.11 * (foot.count("\n") + 1) if foot else 0.0
    around = words + 0.07 + (0.13 if any(r.detail for r in rows) else 0.0)
    # as large as the columns and the page's height allow, and never too small to see
    free = PAGE_HEIGHT - head - below - around * len(rows) - (0.0 if once else 0.07)
    picture = min(picture_height(samples, inner), max(free / (len(rows) + (not once)), LEAST_PICTURE))
    row_height = picture + around
    first = head if once else head + picture + 0.07
    shades = scales(samples, rows, contrast)
    with styled():
        sheet = Sheet(left + right + width * len(samples), first + row_height * len(rows) + below)
        for j, sample in enumerate(samples):
            x = left + j * width + gap / 2
            sheet.lines_above(x + inner / 2, head - 0.05, titles[j])
            if not once:
                show_input(sheet.axes(x, head, inner, picture), sample.ground)
            for i, row in enumerate(rows):
                y = first + i * row_height
                draw_cell(sheet, (x, y, inner, picture, words), sample, row, shades[i][j], objects(sample))
                if row.detail:
                    sheet.text(x + inner / 2, y + picture + words + 0.02, target_text(sample, row.key), size=6)
        if once:
            top = first + (row_height * len(rows) - picture) / 2
            sheet.text(inner / 2, top - 0.14, "Input")
            show_input(sheet.axes(0, top, inner, picture), samples[0].ground)
        else:
            sheet.text(left - names / 2, head + picture / 2, "Input", upright=True)
        for i, row in enumerate(rows):
            middle = first + i * row_height + picture / 2
            sheet.text(left - names / 2, middle, broken(row.label, row_height), upright=True)
        for start, end in runs_of([row.signed for row in rows]):
            middle = first + (start + end) / 2 * row_height + picture / 2
            tall = min(0.72 * picture + (end - start) * row_height, 1.8)
            place = sheet.rect(left + len(samples) * width + 0.02, middle - tall / 2, 0.06, tall)
            colour_bar(sheet.figure, place, rows[start].signed, contrast, bar or BAR_LABELS[contrast])
        sheet.text(sheet.width / 2, sheet.height - below + 0.01, foot, size=6)
    return sheet.figure


def _title(sample: StoredExplanation, width: float) -> str:
    """A question in at most two lines, and its answer."""
    letters, text = int(72 * width / 3.9), sample.info["question"]
    lines = textwrap.wrap(text, letters, max_lines=2)
    alike = (textwrap.wrap(text, n, max_lines=2) for n in range(8, letters))  # the same words, no line much shorter
    fitting = (found for found in alike if len(found) == len(lines) and " ".join(found) == " ".join(lines))
    question = "\n".join(next(fitting, lines))
    return f"{question}\n→ {sample.info['answers'][0]['answer']}"


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
                draw_cell(sheet, (x, y + title, inner, picture, words), sample, row, own_shades(sample, row))
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


def draw_methods(
    samples: Sequence[StoredExplanation],
    methods: Sequence[str] = PAPER_METHODS,
    contrast: Contrast = Contrast.own,
) -> Figure:
    """Figure 5: a row per method."""
    foot = "Where regions overlap, the strongest is shown. Dashed: regions whose relevance stands out from the others'."
    return draw_grid(samples, [method_row(samples, m) for m in methods], contrast, foot=foot)


def method_row(samples: Sequence[StoredExplanation], method: str, target: str | None = None) -> Row:
    """The row of a method, for the first target explained or for a further one."""
    key = method if target is None else f"{method}:{target}"
    maps = (s.need(f"{key}/{stream}") for s in samples for stream in ("image", "text"))
    label = method_name(method)
    return Row(label if target is None else f"{label}, {target}", key, diverges(method, maps))


def draw_semantics(samples: Sequence[StoredExplanation], contrast: Contrast = Contrast.own) -> Figure:
    """Figure 7: homologous parts only, absolute gradients: what each encoder attends to before the sources meet."""
    rows = [Row("Ours (abs), homologous", "homologous")]
    foot = (
        "White outlines: the annotated objects. Numbers: share of the positive relevance inside them. "
        "Dashed: regions whose relevance stands out."
    )
    return draw_grid(samples, rows, contrast, objects=lambda s: [o.mask for o in s.objects if o], foot=foot)


def draw_logic(samples: Sequence[StoredExplanation], contrast: Contrast = Contrast.own) -> Figure:
    """Figure 8: signed relevance of (a) the answer's logit and (b) its difference to the opposite answer.

    Both maps of a question have one scale, so that the weaker one looks it.
    """
    rows = [
        Row("(a) single logit", "ours_full", signed=True, detail=True),
        Row("(b) difference", "ours_full:difference", signed=True, detail=True),
    ]
    bar = {
        Contrast.own: "relevance, range of (a) and (b)",
        Contrast.shared: "relevance, range of all",
        Contrast.log: "relevance, in parts of the maximum of (a) and (b)",
    }[contrast]
    foot = (
        "White outlines: objects that the question names. Numbers: shares of the positive (+) and of the negative (−) "
        "relevance inside them,\n"
        "none where the picture holds no such object. Dashed frames: regions that stand out.\n"
        "Hatched regions, and words with a dashed border: negative."
    )
    return draw_grid(samples, rows, contrast, scales_by_column, bar, named_objects, foot)


def named_objects(sample: StoredExplanation) -> list[np.ndarray]:
    """Masks of the objects whose class the question names."""
    return [thing.mask for thing in sample.objects if thing is not None and thing.named]
