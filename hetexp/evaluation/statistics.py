"""Areas under curves and bootstrap intervals, deterministic from a seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hetexp.errors import InputError

Floats = NDArray[np.float64]

_BATCH_VALUES = 4_000_000  # draws held at once while resampling (32 MB)


class Interval(NamedTuple):
    """A mean and its bootstrap interval: numbers, or arrays if a sample has several components."""

    value: np.float64 | Floats
    low: np.float64 | Floats
    high: np.float64 | Floats


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


def bootstrap_interval(
    samples: ArrayLike, n: int = 1000, seed: int = 0, level: float = 0.95, clusters: ArrayLike | None = None
) -> Interval:
    """Percentile bootstrap interval of the mean.

    Units are drawn with replacement, as many as there are. A unit is one sample or, with `clusters`, all samples of one
    cluster (the questions of an image, say, which are not independent); as clusters differ in size, a resample's mean
    is then the ratio of the sum of its samples to their number.

    Args:
        samples: [N, ...]; every component of a sample is drawn with it.
        n: number of resamples.
        seed: of the draws; the same seed and number of units give the same draws.
        level: confidence in (0, 1).
        clusters: [N], the label of each sample's cluster. None: the samples are independent.

    Returns:
        The mean of the samples and the ends of its interval, each of shape [...]. A single unit has no spread: both
        ends are the mean.

    Raises:
        InputError: on no samples, values that are not finite, labels that do not fit, n < 2 or a level outside (0, 1).
    """
    rows = np.asarray(samples, dtype=np.float64)
    if rows.ndim < 1 or len(rows) == 0:
        raise InputError(f"a bootstrap needs at least one sample, got shape {list(rows.shape)}")
    if not np.isfinite(rows).all():
        raise InputError("samples hold NaN or infinity: leave those rows out and count them")
    if n < 2 or not 0 < level < 1:
        raise InputError(f"expected n >= 2 and 0 < level < 1, got n = {n}, level = {level}")
    value = rows.mean(axis=0)
    sums, sizes = _units(rows, clusters)
    if len(sizes) == 1:
        return Interval(value, value, value)

    def mean(picks: NDArray[np.int64], axis: int) -> Floats:
        """[B, units] -> [components, B], from how often each unit was drawn: the samples themselves are not copied."""
        drawn = _counts(picks)
        return (drawn @ sums / (drawn @ sizes)[:, None]).T

    resampled = stats.bootstrap(
        (np.arange(len(sizes)),),
        mean,
        n_resamples=n,
        batch=max(1, _BATCH_VALUES // len(sizes)),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    # SciPy's own interval differs from this one, and between SciPy's versions, by rounding in the last digit
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=-1).reshape(2, *rows.shape[1:])
    return Interval(value, low, high)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Mean of a - b with its interval, both measured on the same items.

    Args:
        a: [N, ...].
        b: [N, ...], the same items in the same order.
        n: number of resamples, as the following see `bootstrap_interval`.
        seed: of the draws.
        level: confidence in (0, 1).
        clusters: [N] labels or None.

    Raises:
        InputError: if the shapes differ, and as `bootstrap_interval` does.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(
            f"paired samples must have one shape, got {list(first.shape)} and {list(second.shape)}: "
            "compare both methods on the same items"
        )
    return bootstrap_interval(first - second, n, seed, level, clusters)


def _units(rows: Floats, clusters: ArrayLike | None) -> tuple[Floats, Floats]:
    """What is drawn as a whole: the sum of each unit's samples, [units, components], and their number, [units]."""
    flat = rows.reshape(len(rows), -1)
    if clusters is None:
        return flat, np.ones(len(rows))
    labels = np.asarray(clusters)
    if labels.shape != (len(rows),):
        raise InputError(
            f"clusters must hold one label for each of {len(rows)} samples, got shape {list(labels.shape)}"
        )
    _, unit, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), flat.shape[1]))
    np.add.at(sums, unit, flat)
    return sums, sizes.astype(np.float64)


def _counts(picks: NDArray[np.int64]) -> Floats:
    """How often each unit is among the picks of each resample: [B, units] -> [B, units]."""
    counts = np.empty(picks.shape)
    for row, drawn in zip(counts, picks, strict=True):  # row by row: one row fits the processor's cache
        row[:] = np.bincount(drawn, minlength=len(row))
    return counts
