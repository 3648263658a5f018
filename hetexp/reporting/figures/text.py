"""Relevance of text: words shaded by relevance, and a matrix of written tokens by the tokens they were written from.

Special tokens, the token that a prediction is read from and what follows it have no relevance to compare: they are
grey, and no colour scale sees them. Every explained token has its own scale.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from hetexp.reporting.figures.maps import bare, set_words, token_colours, token_rows
from hetexp.reporting.figures.style import PAGE

GREY = (0.88, 0.88, 0.88)
SIZE = 6.2  # points of a word
_MARKS = ("▁", "Ġ", "</w>", "##")  # how vocabularies mark where words begin, go on or end


def without_mark(token: str) -> str:
    """A token without its vocabulary's mark."""
    text = token
    for mark in _MARKS:
        text = text.replace(mark, "")
    return text or "␣"


def printed(token: str) -> str:
    """A token as it is drawn."""
    return without_mark(token).replace("$", r"\$")


def shades(relevance: np.ndarray, left_out: Collection[int], signed: bool) -> list[tuple[float, float, float]]:
    """Background of every token [N]; unsigned relevance runs from the least to the most of those that take part."""
    kept = [i for i in range(len(relevance)) if i not in left_out]
    colours = [GREY] * len(relevance)
    values = np.asarray(relevance, dtype=np.float64)[kept]
    if len(kept) and np.isfinite(values).all():
        bound = float(np.abs(values).max()) if signed else None
        for i, colour in zip(kept, token_colours(values, bound), strict=True):
            colours[i] = colour
    return colours


def words_height(tokens: Sequence[str], width: float, size: float = SIZE) -> float:
    """Inches that these words need where `width` inches are free."""
    return len(token_rows([printed(t) for t in tokens], 72 * width, size)) * 1.75 * size / 72 + 0.03


def show_words(
    ax: Axes, tokens: Sequence[str], relevance: np.ndarray, left_out: Collection[int], signed: bool, size: float = SIZE
) -> None:
    """Tokens shaded by relevance [N], wrapped to the axes' width.

    Args:
        left_out: positions of those that are grey.
        signed: whether colours diverge about 0.
    """
    set_words(ax, [printed(t) for t in tokens], shades(relevance, left_out, signed), size)


def show_matrix(
    ax: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    relevance: np.ndarray,
    left_out: Sequence[Collection[int]],
    signed: bool,
    name_columns: bool,
) -> None:
    """Relevance [k, N] of tokens to each explained one, a row each with its own scale.

    Args:
        rows: the explained tokens [k].
        columns: the tokens [N].
        left_out: per row the columns that are grey.
        name_columns: whether they are named below.
    """
    picture = np.array([shades(r, out, signed) for r, out in zip(relevance, left_out, strict=True)])
    ax.imshow(picture, aspect="auto", interpolation="nearest")
    bare(ax)
    ax.set_yticks(range(len(rows)), [printed(t) for t in rows], fontsize=SIZE)
    ax.tick_params(length=0, pad=1.5)
    ax.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    ax.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    ax.grid(which="minor", color="white", linewidth=0.4)
    ax.tick_params(which="minor", length=0)
    if name_columns:
        size = min(SIZE, 72 * PAGE / max(1, len(columns)) * 0.8)
        ax.set_xticks(range(len(columns)), [printed(t) for t in columns], rotation=90, fontsize=size)


def names_height(tokens: Sequence[str], size: float = SIZE) -> float:
    """Inches that the longest of these tokens takes, upright."""
    longest = max((printed(t) for t in tokens), key=len, default="")
    return 0.06 + (float(TextPath((0, 0), longest, size=size).get_extents().width) / 72 if longest else 0.0)
