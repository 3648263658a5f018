"""How alike two maps of the same tokens are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hetexp.errors import InputError

Floats = NDArray[np.float64]


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two maps, ties with their mean rank.

    Args:
        one: [...], finite.
        other: of the same shape.

    Returns:
        -1 to 1. A map without differences has no order: 1 with another such, 0 with any other.

    Raises:
        InputError: on maps of different shapes.
    """
    from scipy.stats import rankdata  # half a second to load, which most runs need not wait for

    _check(one, other)
    a, b = (rankdata(x) - (x.size + 1) / 2 for x in (one, other))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float(a @ a == b @ b)


def relative_difference(one: Floats, other: Floats) -> float:
    """Largest difference of two maps, relative to the largest absolute value of `other`; 0 where both are 0."""
    _check(one, other)
    gap, size = float(np.abs(one - other).max()), float(np.abs(other).max())
    return gap / size if size > 0 else float(gap > 0)


def _check(one: Floats, other: Floats) -> None:
    if one.shape != other.shape or not one.size:
        raise InputError(f"two maps of the same tokens are needed, got shapes {one.shape} and {other.shape}")
