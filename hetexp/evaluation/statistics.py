"""Areas under curves and bootstrap intervals, deterministic from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetexp.errors import InputError

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_CHUNK_VALUES = 4_000_000  # numbers held at once while resampling (32 MB)


class Interval(NamedTuple):
    """A statistic of the whole sample and its bootstrap interval; arrays if the statistic has several components."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def trapezoid_auc(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Area under y over x by the trapezoid rule: x [s] strictly increasing, y [..., s] -> [...]."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.ndim != 1 or len(xs) < 2 or not (np.diff(xs) > 0).all():
        raise InputError(f"x must be at least two strictly increasing numbers, got {xs.tolist()}")
    if ys.ndim < 1 or ys.shape[-1] != len(xs):
        raise InputError(f"y must have {len(xs)} values along its last axis, one per x, got shape {list(ys.shape)}")
    return np.asarray(np.trapezoid(ys, xs, axis=-1))


def bootstrap_interval(
    samples: ArrayLike, statistic: Statistic | None = None, n: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic under resampling of the samples with replacement.

    Parameters
    ----------
    samples
        [N] or [N, ...]: one row per independent unit (an image, a question), which is drawn whole.
    statistic
        Maps resampled rows [B, N, ...] to [B, ...], averaging over axis 1; None is the mean (by far the fastest).
    n, seed, level
        Number of resamples, seed of the draw (same seed and N: same draws), confidence in (0, 1).

    Raises InputError on no samples, values that are not finite, n < 1 or a level outside (0, 1).
    """
    rows = np.asarray(samples, dtype=np.float64)
    if rows.ndim < 1 or len(rows) == 0:
        raise InputError(f"a bootstrap needs at least one sample, got shape {list(rows.shape)}")
    if not np.isfinite(rows).all():
        raise InputError("samples hold NaN or infinity: leave those rows out and count them")
    if n < 1 or not 0 < level < 1:
        raise InputError(f"expected n >= 1 and 0 < level < 1, got n = {n}, level = {level}")
    rng = np.random.default_rng(seed)
    values = _mean(rows[None]) if statistic is None else statistic(rows[None])
    width = len(rows) if statistic is None else rows.size
    chunk = max(1, _CHUNK_VALUES // width)
    parts = []
    for start in range(0, n, chunk):
        picks = rng.integers(0, len(rows), (min(chunk, n - start), len(rows)))
        parts.append(_resampled_mean(rows, picks) if statistic is None else statistic(rows[picks]))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail], axis=0)
    return Interval(values[0], low, high)


def paired_difference(a: ArrayLike, b: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of a - b with its interval; a and b [N, ...] hold the same units in the same order."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(
            f"paired samples must have one shape, got {list(first.shape)} and {list(second.shape)}: "
            "compare both methods on the same items"
        )
    return bootstrap_interval(first - second, n=n, seed=seed, level=level)


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows.mean(axis=1)


def _resampled_mean(rows: NDArray[np.float64], picks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means of the picked rows, [B, ...], from how often each row was picked: no copy of the rows is made."""
    size, (b, total) = len(rows), picks.shape
    flat = (picks + size * np.arange(b)[:, None]).ravel()
    counts = np.bincount(flat, minlength=b * size).reshape(b, size)
    return (counts @ rows.reshape(size, -1) / total).reshape(b, *rows.shape[1:])
