"""The shared look of all figures: fonts, colours, maps, and saving as PNG, PDF and SVG."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# Figures are files; no window is ever opened.
os.environ.setdefault("MPLBACKEND", "agg")

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from hetexp.attribution.registry import METHODS, MethodRecord
from hetexp.files import PNG_COMPRESSION, atomic_write
from hetexp.reporting.names import in_order, is_control

log = logging.getLogger("hetexp")
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every font it subsets into a PDF

PAGE = 7.0  # width of a page in inches
PAGE_HEIGHT = 8.6  # what a page has for a figure above its caption
SEQUENTIAL = "inferno"  # unsigned relevance: perceptually uniform, dark = none
DIVERGING = "RdBu_r"  # signed relevance: red raises y, blue lowers it, white = 0

# For methods without a look of their own: colours of Tol's muted set, which no record uses, and markers likewise.
SPARE_COLOURS = ("#332288", "#117733", "#999933", "#882255", "#AA4499", "#44AA99", "#CC6677")
SPARE_MARKERS = ("<", ">", "p", "h", "d", "X", "8")

# Fonts for scripts that DejaVu Sans lacks, where one of them is installed.
FURTHER_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Source Han Sans", "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
)
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *(name for name in FURTHER_FONTS if name in _INSTALLED)],
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
    "hatch.linewidth": 0.4,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "image.interpolation": "nearest",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the shared look inside the block only."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # `save` says in one line which signs no font has
        yield


def unprintable(text: str) -> str:
    """The signs of a text that none of the fonts has, each once."""
    return "".join(sign for sign in dict.fromkeys(text) if not sign.isspace() and ord(sign) not in _signs())


@cache
def _signs() -> frozenset[int]:
    files = (font_manager.findfont(name, fallback_to_default=False) for name in RC["font.family"])
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())


def _warn_of_boxes(figure: Figure) -> None:
    lacking = unprintable("".join(text.get_text() for text in figure.findobj(Text)))
    if lacking:
        log.warning(
            "no font here has %s, so boxes stand for them: install one that does, such as Noto Sans CJK", lacking[:20]
        )


def method_styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method's curve, as keywords of `Axes.plot`; no two are alike, controls are dashed.

    Records give their own. Variants, methods that are not registered here and records that leave both at their
    defaults get spare ones, chosen by their names: a method looks the same in every figure, unless two of one figure
    want the same look.
    """
    count = len(SPARE_COLOURS)
    taken: set[int] = set()
    styles: dict[str, dict[str, Any]] = {}
    for method in in_order(methods):
        record = METHODS.get(method)
        if record is not None and (record.colour, record.marker) != (MethodRecord.colour, MethodRecord.marker):
            look = {"color": record.colour, "marker": record.marker}
        else:
            wanted = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4]) % count**2
            free = (n % count**2 for n in range(wanted, wanted + count**2))
            spare = next((n for n in free if n not in taken), wanted)
            taken.add(spare)
            colour, turn = spare % count, spare // count
            look = {"color": SPARE_COLOURS[colour], "marker": SPARE_MARKERS[(colour + turn) % count]}
        styles[method] = look | ({"linestyle": (0, (3, 2))} if is_control(method) else {})
    return styles


# How each kind is written, and that it says neither when nor by what.
_WRITING: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": PNG_COMPRESSION}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
}


def save(figure: Figure, stem: Path, kinds: Iterable[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure as `<stem>.png` and so on, equal bytes for equal content, and close it."""
    paths = []
    _warn_of_boxes(figure)
    with styled():
        used = _used(figure)
    for kind in kinds:
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format=kind, bbox_inches=used, **_WRITING[kind])
        paths.append(atomic_write(stem.with_name(f"{stem.name}.{kind}"), buffer.getvalue()))
    plt.close(figure)
    return paths


def _used(figure: Figure) -> Bbox:
    """The part of a figure that is drawn on and a little margin, in inches: what "tight" finds, once for all kinds."""
    shown = figure.dpi
    figure.dpi = mpl.rcParams["savefig.dpi"]
    try:
        figure.draw_without_rendering()
        return figure.get_tightbbox().padded(0.02)
    finally:
        figure.dpi = shown


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
