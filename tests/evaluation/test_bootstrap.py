"""Resamples and intervals against values known by hand, by a plain loop or by SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hetexp.errors import InputError
from hetexp.evaluation.bootstrap import Estimate, holm, mean_estimate, resample_counts


def test_draws_are_those_of_scipy() -> None:
    values = np.random.default_rng(2).random(30)
    found = mean_estimate(values, np.arange(30), resample_counts(30, 300, 7))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=300, confidence_level=0.9, method="percentile", rng=np.random.default_rng(7)
    )
    assert np.sort(found.resampled) == pytest.approx(np.sort(theirs.bootstrap_distribution), abs=1e-14)
    assert found.interval(0.9) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-14)
    assert found.value == pytest.approx(values.mean())


def test_counts_are_of_as_many_units_and_depend_on_the_seed() -> None:
    counts = resample_counts(12, 50, 1)
    assert (counts.sum(axis=1) == 12).all()
    assert np.array_equal(counts, resample_counts(12, 50, 1))
    assert not np.array_equal(counts, resample_counts(12, 50, 2))


def test_units_are_drawn_with_all_their_values() -> None:
    values, unit = [1.0, 0.0, 4.0, 2.0, 6.0, 5.0], [1, 1, 0, 1, 0, 2]
    counts = resample_counts(4, 400, 3)  # the last unit has no value
    found = mean_estimate(values, unit, counts)
    of_unit = [[4.0, 6.0], [1.0, 0.0, 2.0], [5.0], []]
    for row, value in zip(counts, found.resampled, strict=True):
        drawn = [v for values_of, count in zip(of_unit, row, strict=True) for v in values_of * count]
        assert value == pytest.approx(np.mean(drawn) if drawn else np.nan, nan_ok=True)
    assert found.n == 6


def test_intervals_cover_a_known_difference_as_often_as_they_say() -> None:
    """Two methods on 120 images with one to three questions each that share most of what moves them."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(120), rng.integers(1, 4, 120))
    hits = independent = 0
    for trial in range(1000):
        counts = resample_counts(120, 200, trial)
        common = rng.standard_normal(120)[unit]
        one = common + 0.4 + 0.8 * rng.standard_normal(120)[unit] + 0.1 * rng.standard_normal(len(unit))
        gap = mean_estimate(one, unit, counts) - mean_estimate(common, unit, counts)
        low, high = gap.interval()
        hits += low <= 0.4 <= high
        se = (one - common).std(ddof=1) / math.sqrt(len(unit))
        independent += abs(gap.value - 0.4) <= 1.96 * se
    assert 0.93 <= hits / 1000 <= 0.97
    assert independent / 1000 < 0.87, "taking the questions of an image for independent is too sure of itself"


def test_pairs_see_a_difference_that_the_spread_hides() -> None:
    rng = np.random.default_rng(0)
    common, counts = 100 * rng.standard_normal(60), resample_counts(60, 500, 0)
    one = mean_estimate(common + 1 + 0.1 * rng.standard_normal(60), np.arange(60), counts)
    other = mean_estimate(common, np.arange(60), counts)
    low, high = (one - other).interval()
    assert 0.9 < low < high < 1.1
    assert one.interval()[0] < 0 < one.interval()[1]


def test_arithmetic_keeps_value_and_resamples_together() -> None:
    one, other = Estimate(4.0, np.array([3.0, 5.0]), 9), Estimate(2.0, np.array([1.0, 0.0]), 7)
    assert (one - other).value == 2
    assert (one - other).resampled.tolist() == [2, 5]
    assert (one - other).n == 7
    assert (-one).scaled(2).resampled.tolist() == [-6, -10]
    with pytest.raises(InputError, match="not paired"):
        one - Estimate(1.0, np.zeros(3), 1)


def test_p_value_counts_both_tails() -> None:
    resampled = np.array([-1.0, *[1.0] * 18])
    assert Estimate(1.0, resampled, 5).p_value() == pytest.approx(2 * 2 / 20)
    assert Estimate(1.0, np.abs(resampled), 5).p_value() == pytest.approx(2 / 20)
    assert Estimate(1.0, resampled, 5).p_value(null=1.0) == 1
    assert Estimate(0.0, np.zeros(19), 5).p_value() == 1
    assert math.isnan(Estimate(0.0, np.full(3, np.nan), 5).p_value())


def test_p_value_and_interval_agree() -> None:
    rng = np.random.default_rng(1)
    for trial in range(50):
        found = mean_estimate(rng.standard_normal(40) + 0.3, np.arange(40), resample_counts(40, 999, trial))
        low, high = found.interval()
        assert (found.p_value() < 0.05) == (low > 0 or high < 0) or 0.04 < found.p_value() < 0.06


def test_resamples_without_the_quantity_are_left_out() -> None:
    found = Estimate(1.0, np.array([np.nan, 1.0, 3.0]), 2)
    assert found.interval(0.5) == (1.5, 2.5)
    assert np.isnan(Estimate(1.0, np.full(2, np.nan), 2).interval()).all()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, math.nan, 0.03]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert holm([]) == []


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        ([], [], "at least one value"),
        ([1.0, float("nan")], [0, 1], "NaN"),
        ([1.0], [3], r"a unit in 0\.\.2"),
        ([1.0, 2.0], [0], "for each of 2 values"),
    ],
)
def test_means_refuse(values: Any, unit: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_estimate(values, unit, resample_counts(3, 2, 0))


def test_bootstrap_refuses() -> None:
    with pytest.raises(InputError, match="two resamples, got 3 unit"):
        resample_counts(3, 1, 0)
    with pytest.raises(InputError, match="0 < level < 1"):
        Estimate(0.0, np.zeros(2), 1).interval(1.0)
