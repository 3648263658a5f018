"""What stands over a picture besides relevance: outlines that are seen on any colour, and numbers in a corner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hetexp.evaluation.ground_truth import grid_mean
from hetexp.evaluation.localisation import coverage, relevance_mass_accuracy

NOTE_SIZE = 6.0  # points
HATCH = "/////"
HOLE, PIECE = 0.005, 0.05  # specks that are not outlined
Corner = tuple[str, str]  # horizontal and vertical alignment
CORNERS: tuple[Corner, ...] = (("right", "top"), ("left", "top"), ("right", "bottom"), ("left", "bottom"))


def outline(ax: Axes, mask: np.ndarray) -> None:
    """A thin white line over a black one around a mask [H, W], along the border too where the mask reaches it.

    Specks are left out, see `without_specks`: lines around the gaps between spokes would cover the wheel.
    """
    if not mask.any():
        return
    x, y, padded = _padded(without_specks(mask))
    with _same_limits(ax):
        for colour, line in (("black", 1.3), ("white", 0.6)):
            ax.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=line)


def hatch(ax: Axes, mask: np.ndarray) -> None:
    """White hatching inside a mask [H, W]."""
    if not mask.any():
        return
    with _same_limits(ax):
        inside = ax.contourf(*_padded(mask), levels=[0.5, 1.5], colors="none", hatches=[HATCH])
    inside.set_edgecolor("white")
    inside.set_linewidth(0)


def _padded(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows and values of a mask [H, W] with one more pixel all around, so that contours close."""
    height, width = mask.shape
    return np.arange(-1, width + 1), np.arange(-1, height + 1), np.pad(mask.astype(float), 1)


@contextmanager
def _same_limits(ax: Axes) -> Iterator[None]:
    """Contours move the limits of axes: set them back."""
    across, up = ax.get_xlim(), ax.get_ylim()
    yield
    ax.set_xlim(*across)
    ax.set_ylim(*up)


def without_specks(mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] without holes of less than `HOLE` of the image and pieces of less than `PIECE` of the mask."""
    filled = mask | _parts(~mask, HOLE * mask.size)
    return filled & ~_parts(filled, PIECE * mask.sum())


def _parts(mask: np.ndarray, most: float) -> np.ndarray:
    """The connected parts of a mask that have fewer pixels than `most`."""
    from scipy import ndimage  # most figures outline nothing

    labels, _ = ndimage.label(mask)
    small = np.bincount(labels.ravel()) < most
    small[0] = False  # what is no part of it
    return np.asarray(small[labels])


def frame(ax: Axes, box: Sequence[float] | np.ndarray, colour: str = "white", dashed: bool = False) -> None:
    """A box (x1, y1, x2, y2 in pixels) in a colour over black; dashes are black and that colour by turns."""
    x1, y1, x2, y2 = box
    styles = (("black", 0.9 if dashed else 1.8, "-"), (colour, 0.6 if dashed else 1.0, (0, (3, 2)) if dashed else "-"))
    for edge, line, style in styles:
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line, linestyle=style))


def quiet_corner(mask: np.ndarray | None) -> Corner:
    """The corner of the picture that a mask [H, W] covers least; the first of `CORNERS` where there is no mask."""
    if mask is None:
        return CORNERS[0]
    height, width = mask.shape[0] // 5 + 1, mask.shape[1] // 3 + 1
    rows = {"top": slice(None, height), "bottom": slice(-height, None)}
    columns = {"left": slice(None, width), "right": slice(-width, None)}
    return min(CORNERS, key=lambda c: int(mask[rows[c[1]], columns[c[0]]].sum()))


def note(ax: Axes, text: str, corner: Corner = CORNERS[0]) -> None:
    """A few words in a corner, see `words`."""
    across, up = corner
    words(ax, 0.97 if across == "right" else 0.03, 0.97 if up == "top" else 0.03, text, corner)


def words(ax: Axes, x: float, y: float, text: str, alignment: Corner = ("center", "center")) -> None:
    """A few words at a place in units of the axes, black on white, whatever lies below."""
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "boxstyle": "square,pad=0.15"}
    across, up = alignment
    ax.text(x, y, text, transform=ax.transAxes, ha=across, va=up, fontsize=NOTE_SIZE, color="black", bbox=ground)


def share_inside(relevance: np.ndarray, mask: np.ndarray, boxes: np.ndarray | None = None) -> float:
    """Share of the positive relevance that lies inside a mask, the `relevance_mass_accuracy` of the evaluation.

    The relevance of a cell or region is spread evenly over it.

    Args:
        relevance: [h, w] of a grid over the whole image, or [R] of regions.
        mask: [H, W].
        boxes: of the regions, [R, 4] in pixels.
    """
    if boxes is None:
        inside = grid_mean(mask, *relevance.shape).reshape(-1).clip(0, 1)
    else:
        height, width = mask.shape
        inside = coverage(boxes / np.array([width, height, width, height]), mask)
    return relevance_mass_accuracy(relevance.astype(np.float64).reshape(-1), inside)


def percent(share: float) -> str:
    """A share as it is printed."""
    return f"{100 * share:.0f} %"
