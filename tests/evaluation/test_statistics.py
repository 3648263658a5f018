"""Areas and intervals against values known by hand, by a plain loop or by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hetexp.errors import InputError
from hetexp.evaluation.statistics import bootstrap_interval, paired_difference, trapezoid_auc


def test_trapezoid_on_uneven_steps() -> None:
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
def test_trapezoid_refuses(x: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trapezoid_auc(x, y)


def test_mean_equals_a_loop() -> None:
    rows = np.random.default_rng(1).standard_normal((50, 3))
    interval = bootstrap_interval(rows, n=200, seed=5)
    rng = np.random.default_rng(5)
    means = np.array([rows[rng.integers(0, 50, 50)].mean(axis=0) for _ in range(200)])
    assert interval.value == pytest.approx(rows.mean(axis=0))
    assert interval.low == pytest.approx(np.quantile(means, 0.025, axis=0))
    assert interval.high == pytest.approx(np.quantile(means, 0.975, axis=0))


@pytest.mark.parametrize("shape", [(2,), (40,), (30, 2), (30, 2, 3)])
def test_mean_equals_scipys_own_bootstrap(shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(2).random(shape)
    interval = bootstrap_interval(rows, n=300, seed=7, level=0.9)
    theirs = stats.bootstrap(
        (np.arange(len(rows)),),
        lambda picks, axis: np.moveaxis(rows[picks].mean(axis=1), 0, -1),
        n_resamples=300,
        vectorized=True,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert np.shape(interval.value) == np.shape(interval.low) == shape[1:]
    assert interval.low == pytest.approx(theirs.low, abs=1e-14)
    assert interval.high == pytest.approx(theirs.high, abs=1e-14)


def test_draws_depend_on_the_seed_and_not_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).random(30)
    whole = bootstrap_interval(rows, n=101)
    assert bootstrap_interval(rows, n=101) == whole
    monkeypatch.setattr("hetexp.evaluation.statistics._BATCH_VALUES", 90)
    assert bootstrap_interval(rows, n=101) == whole
    assert bootstrap_interval(rows, n=101, seed=1) != whole


def test_components_are_drawn_together() -> None:
    rows = np.random.default_rng(3).random((60, 4))
    together = bootstrap_interval(rows)
    for i in range(4):
        alone = bootstrap_interval(rows[:, i])
        assert [np.asarray(end)[i] for end in together] == pytest.approx(alone, abs=1e-14)


def test_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap_interval(rng.standard_normal(80), n=300, seed=trial, level=0.9)
        hits += bool(interval.low <= 0 <= interval.high)
    assert 0.82 <= hits / 200 <= 0.97


def test_constant_samples_and_a_single_one_have_no_spread() -> None:
    assert bootstrap_interval(np.full(7, 2.5)) == pytest.approx((2.5, 2.5, 2.5))
    assert bootstrap_interval([0.3]) == (0.3, 0.3, 0.3)
    assert bootstrap_interval([0.1, 0.5], clusters=["a", "a"]) == pytest.approx((0.3, 0.3, 0.3))


def test_clusters_are_drawn_whole() -> None:
    samples = np.array([1.0, 0.0, 4.0, 2.0, 6.0, 5.0])
    labels = np.array([7, 7, 3, 7, 3, 9])
    interval = bootstrap_interval(samples, n=400, seed=3, clusters=labels)
    clusters = [[4.0, 6.0], [1.0, 0.0, 2.0], [5.0]]  # in the order of their labels
    rng = np.random.default_rng(3)
    means = [np.mean(np.concatenate([clusters[i] for i in rng.integers(0, 3, 3)])) for _ in range(400)]
    assert interval == pytest.approx((3.0, np.quantile(means, 0.025), np.quantile(means, 0.975)))
    order = [4, 0, 5, 2, 1, 3]
    assert bootstrap_interval(samples[order], n=400, seed=3, clusters=labels[order]) == pytest.approx(interval)


def test_clusters_of_one_sample_are_the_samples() -> None:
    rows = np.random.default_rng(4).random((25, 2))
    for one, other in zip(bootstrap_interval(rows), bootstrap_interval(rows, clusters=np.arange(25)), strict=True):
        assert np.array_equal(one, other)


def test_clusters_cover_where_independent_samples_are_too_sure() -> None:
    """Fifty clusters of eight samples that share most of what moves them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 8)
    hits = {"clusters": 0, "samples": 0}
    for trial in range(200):
        samples = rng.standard_normal(50)[labels] + 0.3 * rng.standard_normal(400)
        for kind, clusters in (("clusters", labels), ("samples", None)):
            interval = bootstrap_interval(samples, n=200, seed=trial, level=0.9, clusters=clusters)
            hits[kind] += bool(interval.low <= 0 <= interval.high)
    assert 0.82 <= hits["clusters"] / 200 <= 0.97
    assert hits["samples"] / 200 < 0.6


def test_pairs_see_a_difference_that_the_spread_hides() -> None:
    rng = np.random.default_rng(0)
    common = 100 * rng.standard_normal(60)
    shifted = common + 1 + 0.1 * rng.standard_normal(60)
    interval = paired_difference(shifted, common)
    assert interval.low > 0.9
    assert interval.high < 1.1
    labels = np.arange(60) // 3
    clustered = paired_difference(shifted, common, n=300, seed=2, level=0.8, clusters=labels)
    assert clustered == bootstrap_interval(shifted - common, n=300, seed=2, level=0.8, clusters=labels)
    with pytest.raises(InputError, match="same items"):
        paired_difference([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "at least one sample"),
        (1.0, {}, "at least one sample"),
        ([1.0, float("nan")], {}, "NaN"),
        ([1.0, float("inf")], {}, "infinity"),
        ([1.0], {"n": 1}, "n >= 2"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], {"clusters": [1, 2, 3]}, "one label for each of 2 samples"),
        ([1.0, 2.0], {"clusters": [[1, 2]]}, "one label for each of 2 samples"),
    ],
)
def test_bootstrap_refuses(samples: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(samples, **options)
