"""A multi-scale detector's relevance level by level, and the points that its queries sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.reporting.figures.explanation import SIDE, row_text
from hetexp.reporting.figures.maps import bare, broken, diverges, show_input, show_map
from hetexp.reporting.figures.scales import own_scale
from hetexp.reporting.figures.style import styled
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import StoredExplanation

CELL = 1.5  # inches
NOTE = (
    "Dots: points sampled by all heads in the last layer, area and colour by attention (Deformable DETR's drawing). "
    "Each map runs from its own minimum (dark) to its own maximum; its share of all relevance stands above it."
)


def draw_levels(
    explanation: StoredExplanation, method: str, maps: Sequence[np.ndarray], points: np.ndarray | None
) -> Figure:
    """A row per detection: the image with the sampled points, then the relevance of every level.

    Args:
        maps: per level [k, h, w].
        points: x and y in units of the image's sides, and attention [k, points, 3]; None leaves them out.
    """
    shown = explanation.at_most(SIDE)
    found, ground = shown.info["detections"], shown.ground
    height, width = ground.shape[:2]
    tall = CELL * min(height / width, 1.4)
    total = sum(np.abs(level).sum((1, 2)) for level in maps)
    with styled():
        across, down = 0.3 + CELL * (1 + len(maps)), (tall + 0.24) * len(found) + 0.42
        figure, axes = plt.subplots(
            len(found), 1 + len(maps), figsize=(across, down), squeeze=False, layout="constrained"
        )
        for row, detection in enumerate(found):
            show_input(axes[row, 0], ground, shown.pixels(detection["box"]))
            if points is not None:
                _dots(axes[row, 0], points[row], height, width)
            axes[row, 0].set_ylabel(broken(row_text(shown, row), tall))
            for ax, level in zip(axes[row, 1:], maps, strict=True):
                show_map(ax, ground, level[row], own_scale(level[row], diverges(method, level)))
                share = np.abs(level[row]).sum() / total[row] if total[row] else 0.0
                ax.set_title(f"{level.shape[1]} × {level.shape[2]} cells, {100 * share:.0f} %", pad=2)
        axes[0, 0].set_title("Sampled points" if points is not None else "Input", pad=2)
        figure.suptitle(method_name(method), fontsize=7.5)
        figure.supxlabel(NOTE, fontsize=5.5, wrap=True)
    return figure


def _dots(ax: Axes, points: np.ndarray, height: int, width: int) -> None:
    """Points inside the image, the strongest on top."""
    inside = points[((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(1)]
    inside = inside[inside[:, 2].argsort()]
    if not len(inside):
        return
    strength = inside[:, 2] / max(float(inside[:, 2].max()), 1e-12)
    ax.scatter(
        inside[:, 0] * width - 0.5, inside[:, 1] * height - 0.5, s=1 + 14 * strength, c=strength, cmap="autumn",
        vmin=0, vmax=1, linewidths=0.25, edgecolors="black", zorder=3,
    )  # fmt: skip
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    bare(ax)
