"""Areas and intervals against values known by hand or by a plain loop."""

import numpy as np
import pytest

from hetexp.errors import InputError
from hetexp.evaluation.statistics import bootstrap_interval, paired_difference, trapezoid_auc


def test_trapezoid_on_uneven_steps():
    assert trapezoid_auc([0, 0.25, 1], [1.0, 0.5, 0.0]) == pytest.approx(0.25 * 0.75 + 0.75 * 0.25)
    curves = np.array([[2.0, 2.0, 2.0], [0.0, 0.25, 1.0]])
    assert trapezoid_auc([0, 0.25, 1], curves) == pytest.approx([2.0, 0.5])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0, 1, 1], [1, 2, 3], "strictly increasing"),
        ([0], [1], "strictly increasing"),
        ([0, 1], [1, 2, 3], "one per x"),
        ([0, 1], 3.0, "one per x"),
    ],
)
def test_trapezoid_refuses(x, y, message):
    with pytest.raises(InputError, match=message):
        trapezoid_auc(x, y)


def test_mean_equals_the_general_path_and_a_loop():
    rows = np.random.default_rng(1).standard_normal((50, 3))
    fast = bootstrap_interval(rows, n=200, seed=5)
    general = bootstrap_interval(rows, lambda r: r.mean(axis=1), n=200, seed=5)
    rng = np.random.default_rng(5)
    means = np.array([rows[rng.integers(0, 50, 50)].mean(axis=0) for _ in range(200)])
    for interval in (fast, general):
        assert interval.value == pytest.approx(rows.mean(axis=0))
        assert interval.low == pytest.approx(np.quantile(means, 0.025, axis=0))
        assert interval.high == pytest.approx(np.quantile(means, 0.975, axis=0))


def test_chunks_do_not_change_the_draws(monkeypatch):
    rows = np.random.default_rng(1).random(30)
    whole = bootstrap_interval(rows, n=101)
    monkeypatch.setattr("hetexp.evaluation.statistics._CHUNK_VALUES", 90)
    assert bootstrap_interval(rows, n=101) == whole
    assert bootstrap_interval(rows, n=101, seed=1) != whole


def test_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap_interval(rng.standard_normal(80), n=300, seed=trial, level=0.9)
        hits += interval.low <= 0 <= interval.high
    assert 0.82 <= hits / 200 <= 0.97


def test_other_statistics_and_constant_samples():
    rows = np.arange(11.0)
    median = bootstrap_interval(rows, lambda r: np.median(r, axis=1))
    assert median.value == 5.0
    assert median.low < 5.0 < median.high
    assert bootstrap_interval(np.full(7, 2.5)) == pytest.approx((2.5, 2.5, 2.5))


def test_pairs_see_a_difference_that_the_spread_hides():
    rng = np.random.default_rng(0)
    common = 100 * rng.standard_normal(60)
    interval = paired_difference(common + 1 + 0.1 * rng.standard_normal(60), common)
    assert interval.low > 0.9
    assert interval.high < 1.1
    with pytest.raises(InputError, match="same items"):
        paired_difference([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "at least one sample"),
        ([1.0, float("nan")], {}, "NaN"),
        ([1.0], {"n": 0}, "n >= 1"),
        ([1.0], {"level": 1.0}, "level"),
    ],
)
def test_bootstrap_refuses(samples, options, message):
    with pytest.raises(InputError, match=message):
        bootstrap_interval(samples, **options)
