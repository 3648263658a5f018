"""A spectrogram, and relevance over the time that it covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from hetexp.reporting.figures.text import SIZE, printed, shades


def show_spectrogram(ax: Axes, spectrogram: np.ndarray, seconds: float) -> None:
    """Energy of frequency bands over time [bands, frames], as the model reads it."""
    ax.imshow(
        spectrogram,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        interpolation="bilinear",
        extent=(0, seconds, 0, len(spectrogram)),
    )
    ax.set_yticks([])
    ax.set_ylabel("mel band", fontsize=SIZE)
    ax.tick_params(labelbottom=False, length=2)


def show_over_time(
    ax: Axes, rows: Sequence[str], relevance: np.ndarray, seconds: float, signed: bool, name_time: bool
) -> None:
    """Relevance of the frames [k, N] of a recording of that length to each explained token, each with its own scale."""
    picture = np.array([shades(row, (), signed) for row in relevance])
    ax.imshow(picture, aspect="auto", interpolation="nearest", extent=(0, seconds, len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), [printed(t) for t in rows], fontsize=SIZE)
    ax.tick_params(axis="y", length=0, pad=1.5)
    ax.tick_params(axis="x", length=2, labelbottom=name_time)
    for y in range(1, len(rows)):
        ax.axhline(y - 0.5, color="white", linewidth=0.4)
    if name_time:
        ax.set_xlabel("time (s)")
