"""Relevance over images: maps on a grid and their masks, regions, and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

from hetexp.reporting.figures.style import DIVERGING, SEQUENTIAL, grey, overlay, signed_overlay
from hetexp.reporting.names import is_signed

MASK_COLOUR = np.array([0.0, 0.62, 0.45])
BOX_COLOUR = "#00C8FF"


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
        x1, y1, x2, y2 = box
        for colour, width in (("black", 1.8), (BOX_COLOUR, 1.0)):
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width))
    bare(ax)


def show_map(ax: Axes, image: np.ndarray, relevance: np.ndarray, signed: bool) -> None:
    """A map [h, w] over the image: unsigned ones from their minimum to their maximum, signed ones about 0."""
    if not np.isfinite(relevance).all():
        show_nothing(ax, image)
        return
    large = enlarge(relevance, image.shape[:2])
    if signed:
        ax.imshow(signed_overlay(image, large, float(np.abs(relevance).max())), interpolation="bilinear")
    else:
        ax.imshow(overlay(image, large, float(relevance.min()), float(relevance.max())), interpolation="bilinear")
    bare(ax)


def diverges(method: str, maps: Iterable[np.ndarray]) -> bool:
    """Whether a method's row is drawn in diverging colours: its record says that it is signed, or its maps are."""
    return is_signed(method) or any(bool((m < 0).any()) for m in maps)


def show_nothing(ax: Axes, image: np.ndarray) -> None:
    """The faint image alone, where relevance overflowed or is not a number."""
    ax.imshow(0.45 + 0.55 * grey(image), interpolation="bilinear")
    ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center", fontsize=6)
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


def show_regions(
    ax: Axes, image: np.ndarray, boxes: np.ndarray, relevance: np.ndarray, bound: float | None = None
) -> None:
    """Regions [R, 4] shaded by relevance [R], the three strongest outlined.

    Args:
        bound: given for signed relevance: the colour scale runs from -bound to bound about 0. Otherwise it runs from
            the least to the most relevant place.
    """
    painted = paint_regions(boxes, relevance, (image.shape[0], image.shape[1]))
    if bound is not None:
        ax.imshow(signed_overlay(image, painted, bound), interpolation="nearest")
    else:
        low, high = float(painted.min()), float(painted.max())  # one region over everything is all maximum
        ax.imshow(overlay(image, painted, low if low < high else 0.0, high), interpolation="nearest")
    for i in np.argsort(-np.abs(relevance), kind="stable")[:3]:
        x1, y1, x2, y2 = boxes[i]
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=0.5, alpha=0.9))
    bare(ax)


def token_colours(values: np.ndarray, bound: float | None) -> list[tuple[float, float, float]]:
    """Backgrounds of words: about 0 up to `bound`, or, unsigned, from the least to the most relevant word."""
    if bound is None:
        span = float(np.ptp(values))
        table = mpl.colormaps[SEQUENTIAL]((values - values.min()) / span if span > 0 else np.zeros_like(values))
    else:
        table = mpl.colormaps[DIVERGING](0.5 + 0.5 * np.clip(values / bound if bound > 0 else values, -1, 1))
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
    """Words set in lines no wider than `width` points: per line (index, x, width)."""
    lines: list[list[tuple[int, float, float]]] = [[]]
    x, gap, pad = 0.0, 0.35 * size, 0.5 * size
    for i, token in enumerate(tokens):
        own = float(TextPath((0, 0), token, size=size).get_extents().width) + pad
        if lines[-1] and x + own > width:
            lines.append([])
            x = 0.0
        lines[-1].append((i, x, own))
        x += own + gap
    return lines


def show_tokens(
    ax: Axes, tokens: Sequence[str], relevance: np.ndarray, bound: float | None = None, size: float = 5.6
) -> None:
    """Words in boxes shaded by relevance, wrapped to the axes' width and centred; the CLS token is left out.

    Args:
        bound: as in `show_regions`.
    """
    words, values = list(tokens[1:]), relevance[1:]
    set_words(ax, words, token_colours(values, bound), size)


def set_words(ax: Axes, words: Sequence[str], colours: Sequence[tuple[float, float, float]], size: float) -> None:
    """Words in boxes of these colours, wrapped to the axes' width and centred, from the top down."""
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
                    edgecolor="#888888",
                    linewidth=0.3,
                )
            )
            ax.text(
                x + shift + own / 2, y + 0.5 * size, words[i], fontsize=size, color=readable(colours[i]), ha="center"
            )
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    bare(ax)


def colour_bar(figure: Figure, rect: tuple[float, float, float, float], signed: bool, label: str) -> None:
    """A colour bar in its own axes: minimum to maximum, or minus to plus about 0."""
    ax = figure.add_axes(rect)
    norm = Normalize(-1, 1) if signed else Normalize(0, 1)
    bar = figure.colorbar(ScalarMappable(norm, DIVERGING if signed else SEQUENTIAL), cax=ax)
    bar.set_ticks([-1, 0, 1] if signed else [0, 1], labels=["−max", "0", "+max"] if signed else ["min", "max"])
    bar.ax.tick_params(labelsize=5.5, length=2, width=0.4)
    bar.outline.set_linewidth(0.4)
    bar.set_label(label, fontsize=5.5, labelpad=1)
