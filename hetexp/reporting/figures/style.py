"""The shared look of all figures: fonts, colours, maps, and saving as PNG and PDF."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Figures are files; no window is ever opened.
os.environ.setdefault("MPLBACKEND", "agg")

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.reporting.files import write

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every font it subsets into a PDF

PAGE = 7.0  # width of a page in inches
SEQUENTIAL = "inferno"  # unsigned relevance: perceptually uniform, dark = none
DIVERGING = "RdBu_r"  # signed relevance: red raises y, blue lowers it, white = 0

# Okabe-Ito colours, told apart with any colour vision; the marker repeats the distinction without colour.
METHOD_STYLE: dict[str, dict[str, Any]] = {
    "gae": {"color": "#E69F00", "marker": "s"},
    "odam": {"color": "#56B4E9", "marker": "^"},
    "ours_abs": {"color": "#009E73", "marker": "o"},
    "ours_pos": {"color": "#0072B2", "marker": "D"},
    "ours_noised": {"color": "#D55E00", "marker": "v"},
    "ours_full": {"color": "#CC79A7", "marker": "P"},
    "raw_attention": {"color": "#8C6D31", "marker": "x"},
    "rollout": {"color": "#6F6F6F", "marker": "+"},
    "grad_cam": {"color": "#9467BD", "marker": "*"},
    "random": {"color": "#000000", "marker": "", "linestyle": (0, (3, 2))},
}

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "svg.fonttype": "none",
    "svg.hashsalt": "hetexp",
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "image.interpolation": "nearest",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the shared look inside the block only."""
    with mpl.rc_context(RC):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `<stem>.png` and `<stem>.pdf`, equal bytes for equal content, and close it."""
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=0.02, metadata=metadata)
        paths.append(write(stem.with_name(f"{stem.name}.{kind}"), buffer.getvalue()))
    plt.close(figure)
    return paths


def grey(image: np.ndarray) -> np.ndarray:
    """A faint greyscale of an RGB image uint8 [H, W, 3], as the ground for relevance; float [H, W, 3] in 0..1."""
    luminance = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    return np.repeat(luminance[:, :, None], 3, axis=2)


def overlay(image: np.ndarray, relevance: np.ndarray, low: float, high: float) -> np.ndarray:
    """Unsigned relevance [H, W] in colour over the greyscale image [H, W, 3]; float [H, W, 3].

    Opacity rises with relevance, so the picture stays legible where nothing is relevant.
    """
    unit = np.clip((relevance - low) / (high - low), 0, 1) if high > low else np.zeros_like(relevance)
    colour = mpl.colormaps[SEQUENTIAL](unit)[:, :, :3]
    alpha = (0.4 + 0.4 * unit)[:, :, None]
    return (1 - alpha) * grey(image) + alpha * colour


def signed_overlay(image: np.ndarray, relevance: np.ndarray, bound: float) -> np.ndarray:
    """Signed relevance [H, W] in diverging colour, 0 at the centre, over the greyscale image; float [H, W, 3]."""
    unit = np.clip(relevance / bound, -1, 1) if bound > 0 else np.zeros_like(relevance)
    colour = mpl.colormaps[DIVERGING](0.5 + 0.5 * unit)[:, :, :3]
    alpha = (0.2 + 0.6 * np.abs(unit))[:, :, None]
    return (1 - alpha) * (0.35 + 0.65 * grey(image)) + alpha * colour
