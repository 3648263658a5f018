"""Areas under curves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetexp.errors import InputError

Floats = NDArray[np.float64]


def trapezoid_auc(x: ArrayLike, y: ArrayLike) -> Floats:
    """Area under y over x by the trapezoid rule.

    Args:
        x: [s], strictly increasing.
        y: [..., s].

    Returns:
        [...], in units of x times units of y.

    Raises:
        InputError: if x does not increase, or y has another number of values along its last axis.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or len(xs) < 2 or not (np.diff(xs) > 0).all():
        raise InputError(f"x must be at least two strictly increasing numbers, got {xs.tolist()}")
    if ys.ndim < 1 or ys.shape[-1] != len(xs):
        raise InputError(f"y must have {len(xs)} values along its last axis, one per x, got shape {list(ys.shape)}")
    return np.asarray(np.trapezoid(ys, xs, axis=-1))
