"""Relevance over images: maps on a grid and their masks, regions, and words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

from hetexp.reporting.contrast import Contrast
from hetexp.reporting.figures.marks import HATCH, frame, hatch, words
from hetexp.reporting.figures.scales import DECADES, NEGATIVE, Scale, Shown
from hetexp.reporting.figures.sheet import Rect
from hetexp.reporting.figures.style import DIVERGING, SEQUENTIAL, grey, overlay, signed_overlay
from hetexp.reporting.names import is_signed

MASK_COLOUR = np.array([0.0, 0.62, 0.45])
BOX_COLOUR = "#00C8FF"
NO_RELEVANCE = (0.88, 0.88, 0.88)
BAR_SIZE = 6.0  # points
_BORDERS: dict[bool, dict[str, Any]] = {
    False: {"edgecolor": "#888888", "linewidth": 0.3},
    True: {"edgecolor": "black", "linewidth": 0.9, "linestyle": (0, (2, 1.2))},
}


def enlarge(relevance: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] bilinearly on the image's (height, width)."""
    picture = Image.fromarray(relevance.astype(np.float32), mode="F")
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float64)


def bare(ax: Axes) -> None:
    """No ticks, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def show_input(ax: Axes, image: np.ndarray, box: Sequence[float] | np.ndarray | None = None) -> None:
    """The image itself, with a box if given (x1, y1, x2, y2 in pixels)."""
    ax.imshow(image, interpolation="bilinear")
    if box is not None:
        frame(ax, box, BOX_COLOUR)
    bare(ax)


def show_map(ax: Axes, image: np.ndarray, relevance: np.ndarray, scale: Shown) -> None:
    """A map [h, w] over the image, or what its scale says in place of it."""
    if isinstance(scale, str):
        show_nothing(ax, image, scale)
        return
    large = enlarge(relevance, image.shape[:2])
    ax.imshow(shaded(image, large, scale), interpolation="bilinear")
    if scale.signed:
        hatch(ax, scale.unit(large) < NEGATIVE)
    bare(ax)


def shaded(image: np.ndarray, relevance: np.ndarray, scale: Scale) -> np.ndarray:
    """Relevance [H, W] in colour over the greyscale image [H, W, 3]; float [H, W, 3]."""
    unit = scale.unit(relevance)
    return signed_overlay(image, unit, 1.0) if scale.signed else overlay(image, unit, 0.0, 1.0)


def diverges(method: str, maps: Iterable[np.ndarray]) -> bool:
    """Whether a method's row is drawn in diverging colours: its record says that it is signed, or its maps are."""
    return is_signed(method) or any(bool((m < 0).any()) for m in maps)


def show_nothing(ax: Axes, image: np.ndarray, why: str) -> None:
    """The faint image alone, and why there is no relevance on it."""
    ax.imshow(0.45 + 0.55 * grey(image), interpolation="bilinear")
    words(ax, 0.5, 0.5, why)
    bare(ax)


def show_mask(ax: Axes, image: np.ndarray, mask: np.ndarray) -> None:
    """A mask [H, W]: colour inside, faint greyscale outside, a line around it."""
    ground = 0.45 + 0.55 * grey(image)
    inside = 0.45 * grey(image) + 0.55 * MASK_COLOUR
    ax.imshow(np.where(mask[:, :, None], inside, ground), interpolation="nearest")
    if mask.any() and not mask.all():
        ax.contour(mask, levels=[0.5], colors=["#00402E"], linewidths=0.5)
    bare(ax)


def paint_regions(boxes: np.ndarray, relevance: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Relevance per pixel [H, W]: of all regions there, the one whose relevance is largest in size."""
    canvas = np.zeros(size)
    for i in np.argsort(np.abs(relevance), kind="stable"):
        x1, y1, x2, y2 = boxes[i]
        canvas[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = relevance[i]
    return canvas


def show_regions(ax: Axes, image: np.ndarray, boxes: np.ndarray, relevance: np.ndarray, scale: Shown) -> None:
    """Regions [R, 4] shaded by relevance [R], those that stand out framed; or what the scale says in place of them.

    Of regions that overlap, each place shows the strongest.
    """
    if isinstance(scale, str):
        show_nothing(ax, image, scale)
        return
    painted = paint_regions(boxes, relevance, (image.shape[0], image.shape[1]))
    ax.imshow(shaded(image, painted, scale), interpolation="nearest")
    if scale.signed:
        hatch(ax, scale.unit(painted) < NEGATIVE)
    for i in standing_out(relevance):
        frame(ax, boxes[i], dashed=True)
    bare(ax)


def standing_out(relevance: np.ndarray, most: int = 3, share: float = 0.25) -> list[int]:
    """The regions clearly above the rest, strongest first: those before the widest gap in the order of size.

    Args:
        relevance: of regions [R].
        most: how many there are at most.
        share: of the largest size that the gap must be; without one as wide no region stands out.
    """
    order = np.argsort(-np.abs(relevance), kind="stable")
    sizes = np.append(np.abs(relevance)[order], 0.0)[: most + 1]
    gaps = -np.diff(sizes)
    if not len(gaps) or not gaps.max() >= share * sizes[0] > 0:
        return []
    return [int(i) for i in order[: int(gaps.argmax()) + 1]]


def token_colours(values: np.ndarray, bound: float | None) -> list[tuple[float, float, float]]:
    """Backgrounds of words: about 0 up to `bound`, or, unsigned, from the least to the most relevant word."""
    if bound is None:
        span = float(np.ptp(values))
        unit = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    else:
        unit = np.clip(values / bound if bound > 0 else values, -1, 1)
    return _colours(unit, signed=bound is not None)


def _colours(unit: np.ndarray, signed: bool) -> list[tuple[float, float, float]]:
    """Colours of places on a scale [n], 0 to 1 or signed -1 to 1."""
    table = mpl.colormaps[DIVERGING](0.5 + 0.5 * unit) if signed else mpl.colormaps[SEQUENTIAL](unit)
    return [(float(r), float(g), float(b)) for r, g, b, _ in table]


def readable(colour: tuple[float, float, float]) -> str:
    """Black or white, whichever is legible on the colour."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def broken(label: str, inches: float, size: float = 7) -> str:
    """A method's label in two lines where one is longer than `inches`; only variants are that long."""
    width = float(TextPath((0, 0), label, size=size).get_extents().width) if label else 0.0
    return label.replace(", ", ",\n", 1) if width > 72 * inches else label


def token_rows(tokens: Sequence[str], width: float, size: float) -> list[list[tuple[int, float, float]]]:
    """Words in as few lines as hold them, none wider than `width` points and all alike: per line (index, x, width)."""
    gap, pad = 0.35 * size, 0.5 * size
    own = [float(TextPath((0, 0), token, size=size).get_extents().width) + pad for token in tokens]
    lines = _filled(own, width, gap)
    narrow, enough = 0.0, width
    while len(lines) > 1 and enough - narrow > 0.01 * size:  # the narrowest column that takes no more lines
        middle = (narrow + enough) / 2
        found = _filled(own, middle, gap)
        if len(found) == len(lines):
            lines, enough = found, middle
        else:
            narrow = middle
    return lines


def _filled(widths: Sequence[float], most: float, gap: float) -> list[list[tuple[int, float, float]]]:
    """Words of these widths in lines no wider than `most`, each as full as it gets: per line (index, x, width)."""
    lines: list[list[tuple[int, float, float]]] = [[]]
    x = 0.0
    for i, own in enumerate(widths):
        if lines[-1] and x + own > most:
            lines.append([])
            x = 0.0
        lines[-1].append((i, x, own))
        x += own + gap
    return lines


def show_tokens(ax: Axes, tokens: Sequence[str], relevance: np.ndarray, scale: Shown, size: float) -> None:
    """Words in boxes shaded by relevance, wrapped to the axes' width and centred; the CLS token is left out.

    They are grey where the scale says that there is nothing to shade.
    """
    shown = list(tokens[1:])
    if isinstance(scale, str):
        set_words(ax, shown, [NO_RELEVANCE] * len(shown), size)
        return
    unit = scale.unit(relevance[1:])
    set_words(ax, shown, _colours(unit, scale.signed), size, dashed=unit < NEGATIVE)


def set_words(
    ax: Axes,
    words: Sequence[str],
    colours: Sequence[tuple[float, float, float]],
    size: float,
    dashed: Sequence[bool] | np.ndarray = (),
) -> None:
    """Words in boxes of these colours, wrapped to the axes' width and centred, from the top down.

    Args:
        dashed: of each word, whether its box has a dashed border.
    """
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    box = ax.get_position()
    width, height = (72 * s * f for s, f in zip(figure.get_size_inches(), (box.width, box.height), strict=True))
    line_height = 1.75 * size
    for number, line in enumerate(token_rows(words, width, size)):
        shift = (width - (line[-1][1] + line[-1][2])) / 2
        y = height - (number + 1) * line_height
        for i, x, own in line:
            ax.add_patch(
                FancyBboxPatch(
                    (x + shift, y),
                    own,
                    1.45 * size,
                    boxstyle=f"round,pad=0,rounding_size={0.25 * size}",
                    facecolor=colours[i],
                    **_BORDERS[bool(len(dashed)) and bool(dashed[i])],
                )
            )
            ax.text(
                x + shift + own / 2, y + 0.5 * size, words[i], fontsize=size, color=readable(colours[i]), ha="center"
            )
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    bare(ax)


def colour_bar(figure: Figure, rect: Rect, signed: bool, contrast: Contrast, label: str) -> None:
    """A colour bar in its own axes, for all maps that are drawn so."""
    ax = figure.add_axes(rect)
    norm = Normalize(-1, 1) if signed else Normalize(0, 1)
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING if signed else SEQUENTIAL), cax=ax)
    places, labels = zip(*bar_ticks(signed, contrast), strict=True)
    bar.set_ticks(places, labels=labels)
    bar.ax.tick_params(labelsize=BAR_SIZE, length=2, width=0.4, pad=1.5)
    bar.outline.set_linewidth(0.4)
    if signed:
        below = Rectangle((0, -1), 1, 1 + NEGATIVE, fill=False, edgecolor="white", linewidth=0, hatch=HATCH)
        bar.ax.add_patch(below)
    tall = 72 * rect[3] * figure.get_size_inches()[1]
    bar.set_label(textwrap.fill(label, max(int(tall / (0.55 * BAR_SIZE)), 12)), fontsize=BAR_SIZE, labelpad=3)


def bar_ticks(signed: bool, contrast: Contrast) -> list[tuple[float, str]]:
    """Places on a colour bar, and what they stand for."""
    if contrast is not Contrast.log:
        return [(-1.0, "−max"), (0.0, "0"), (1.0, "+max")] if signed else [(0.0, "min"), (1.0, "max")]
    up = [(1 - n / DECADES, f"{10.0**-n:g}") for n in range(DECADES)]
    if not signed:
        return [*up, (0.0, f"≤ {10.0**-DECADES:g}")]
    return [*((at, f"+{text}") for at, text in up), (0.0, "≈ 0"), *((-at, f"−{text}") for at, text in up)]


def runs_of(signed: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last of neighbouring rows that one colour bar serves."""
    ends = [i for i, this in enumerate(signed) if i + 1 == len(signed) or signed[i + 1] != this]
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
