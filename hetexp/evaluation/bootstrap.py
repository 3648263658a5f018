"""Paired bootstrap over images: every quantity is computed on the same resamples, so that differences are paired.

Units (images) are drawn with replacement (Efron 1979, doi:10.1214/aos/1176344552). A resample is a row of counts, how
often each unit was drawn; a quantity that can be computed from counts has an `Estimate`, and estimates on the same
counts can be subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hetexp.errors import InputError

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]

LEVEL = 0.95  # of every interval that is printed


def resample_counts(units: int, resamples: int, seed: int) -> Counts:
    """How often each unit is drawn in each resample.

    The draws are those of `scipy.stats.bootstrap` with the same seed.

    Args:
        units: number of units, of which as many are drawn with replacement.
        resamples: number of resamples B.
        seed: of the draws; the same three numbers give the same counts.

    Returns:
        [B, units].

    Raises:
        InputError: without units, and for fewer than two resamples.
    """
    if units < 1 or resamples < 2:
        raise InputError(f"a bootstrap needs a unit and two resamples, got {units} unit(s), {resamples} resample(s)")
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, units), dtype=np.int32)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, units, units), minlength=units)
    return counts


@dataclass(frozen=True)
class Estimate:
    """A number and what it is on every resample.

    Attributes:
        value: on the data as it is.
        resampled: [B]; NaN on resamples that lack what it needs.
        n: items behind it.
    """

    value: float
    resampled: Floats
    n: int

    def __sub__(self, other: Estimate) -> Estimate:
        self._check_paired(other)
        return Estimate(self.value - other.value, self.resampled - other.resampled, min(self.n, other.n))

    def __neg__(self) -> Estimate:
        return self.scaled(-1.0)

    def scaled(self, factor: float) -> Estimate:
        """The same in other units."""
        return Estimate(factor * self.value, factor * self.resampled, self.n)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the percentile interval; NaN where no resample has the quantity.

        Raises:
            InputError: for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise InputError(f"expected 0 < level < 1, got {level}")
        known = self.resampled[~np.isnan(self.resampled)]
        if not len(known):
            return math.nan, math.nan
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p-value by inversion of the percentile interval, at least 2 / (B + 1)."""
        known = self.resampled[~np.isnan(self.resampled)]
        if not len(known):
            return math.nan
        tail = min(int((known <= null).sum()), int((known >= null).sum()))
        return min(1.0, 2 * (tail + 1) / (len(known) + 1))

    def _check_paired(self, other: Estimate) -> None:
        if self.resampled.shape != other.resampled.shape:
            raise InputError(
                f"estimates on {len(self.resampled)} and {len(other.resampled)} resamples are not paired: compute both "
                "on the same counts"
            )


def mean_estimate(values: ArrayLike, unit: ArrayLike, counts: Counts) -> Estimate:
    """The mean of values that belong to units, e.g. of questions that share images.

    A unit is drawn with all its values; as units differ in how many they have, a resample's mean is the ratio of the
    sum of its values to their number.

    Args:
        values: [N].
        unit: [N], the unit of each value, 0..U-1.
        counts: [B, U].

    Raises:
        InputError: on no values, values that are not finite, and units that do not fit.
    """
    rows, owner = np.asarray(values, dtype=np.float64), np.asarray(unit)
    if rows.ndim != 1 or len(rows) == 0:
        raise InputError(f"a mean needs at least one value, got shape {list(rows.shape)}")
    if owner.shape != rows.shape or owner.min() < 0 or owner.max() >= counts.shape[1]:
        raise InputError(f"expected a unit in 0..{counts.shape[1] - 1} for each of {len(rows)} values")
    if not np.isfinite(rows).all():
        raise InputError("values hold NaN or infinity: count them as misses, or leave them out for all methods alike")
    sums = np.bincount(owner, rows, minlength=counts.shape[1])
    sizes = np.bincount(owner, minlength=counts.shape[1])
    drawn = counts @ sizes
    with np.errstate(invalid="ignore"):
        resampled = np.where(drawn > 0, counts @ sums / np.maximum(drawn, 1), np.nan)
    return Estimate(float(rows.mean()), resampled, len(rows))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for a family of tests (Holm 1979, https://www.jstor.org/stable/4615733); NaN is no test."""
    tested = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
