"""Localisation on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hetexp.errors import InputError
from hetexp.evaluation.localisation import (
    area_matched_iou,
    auprc,
    auroc,
    coverage,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    word_auroc,
    word_rank,
)

MASK = np.zeros((10, 20), dtype=bool)
MASK[:, :10] = True  # left half
BOXES = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 0.5]])


def test_coverage_of_boxes_inside_outside_and_across() -> None:
    assert coverage(BOXES, MASK).tolist() == [1.0, 0.0, 0.5]


def test_a_box_without_area_covers_the_pixel_it_touches() -> None:
    assert coverage(np.array([[0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]]), MASK).tolist() == [1.0, 0.0]


def test_coverage_equals_the_mean_of_the_masks_pixels() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((31, 17)) < 0.4
    corners = np.sort(rng.integers(0, [[[17, 31]]], (50, 2, 2)), axis=1)
    pixels = [mask[y1 : y2 + 1, x1 : x2 + 1].mean() for (x1, y1), (x2, y2) in corners]
    inside = np.concatenate([corners[:, 0] + 1e-6, corners[:, 1] + 1 - 1e-6], axis=1)  # of the pixels' outer edges
    assert coverage(inside / [17, 31, 17, 31], mask) == pytest.approx(pixels, abs=1e-12)


def test_mass_accuracy_counts_positive_relevance_only() -> None:
    covered = coverage(BOXES, MASK)
    assert relevance_mass_accuracy(np.array([1.0, 1.0, 2.0]), covered) == pytest.approx(0.5)
    assert relevance_mass_accuracy(np.array([1.0, -5.0, 0.0]), covered) == pytest.approx(1.0)
    assert relevance_mass_accuracy(np.array([-1.0, -5.0, 0.0]), covered) == 0


def test_pointing_takes_the_centre_of_the_top_region() -> None:
    assert pointing_game(np.array([3.0, 1.0, 2.0]), BOXES, MASK)
    assert not pointing_game(np.array([1.0, 3.0, 2.0]), BOXES, MASK)
    assert not pointing_game(np.zeros(3), BOXES, MASK), "a map without relevance points nowhere"


def test_word_rank_is_zero_for_the_top_and_one_for_the_last() -> None:
    relevance = np.array([9.0, 0.1, 0.9, 0.5, 9.0])
    assert word_rank(relevance, [2]) == 0
    assert word_rank(relevance, [1]) == 1
    assert word_rank(relevance, [2, 1]) == 0.5
    assert word_rank(relevance, []) is None
    assert word_rank(np.array([9.0, 0.1, 9.0]), [1]) is None


def test_tied_words_share_their_mean_rank() -> None:
    assert word_rank(np.zeros(5), [1]) == 0.5
    relevance = np.round(np.random.default_rng(0).standard_normal(30), 1)
    words = relevance[1:-1]
    assert len(set(words)) < len(words)
    for i, word in enumerate(words, start=1):
        above, equal = (words > word).sum(), (words == word).sum()
        assert word_rank(relevance, [i]) == (above + (equal - 1) / 2) / (len(words) - 1)


def pixels(values: np.ndarray, inside: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as so many pixels each, a share of them on the target."""
    target = [np.arange(each) < round(share * each) for share in inside]
    return np.repeat(values, each), np.concatenate(target)


def test_ranking_measures_by_hand() -> None:
    relevance, inside = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])
    assert auroc(relevance, inside) == 3 / 4
    assert auprc(relevance, inside) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert relevance_rank_accuracy(relevance, inside) == 1 / 2
    assert area_matched_iou(1 / 2) == pytest.approx(1 / 3)  # one of two tokens in common: 1 of 3
    assert auroc(-relevance, inside) == 1 / 4


def test_fractions_of_tokens_are_fractions_of_their_pixels() -> None:
    """Quantus' rank accuracy, and the textbook's AUROC and average precision, on the pixels themselves."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        relevance = rng.integers(0, 6, 12).astype(float)
        inside = rng.integers(0, 5, 12) / 4
        if not inside.any():
            continue
        values, target = pixels(relevance, inside, 4)
        pairs = values[target][:, None] - values[~target][None]
        assert auroc(relevance, inside) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        levels = np.unique(values)[::-1]
        precision = [target[values >= level].mean() for level in levels]
        gained = [(target & (values == level)).sum() / target.sum() for level in levels]
        assert auprc(relevance, inside) == pytest.approx(np.dot(precision, gained))
        ranked = []
        for _ in range(400):  # ties broken at random
            order = np.lexsort((rng.random(len(values)), -values))
            ranked.append(target[order[: target.sum()]].mean())
        assert relevance_rank_accuracy(relevance, inside) == pytest.approx(np.mean(ranked), abs=0.03)


def test_a_map_without_relevance_is_chance() -> None:
    inside = np.array([1.0, 0.5, 0.0, 0.0, 0.0])
    assert auroc(np.zeros(5), inside) == 0.5
    assert auprc(np.zeros(5), inside) == pytest.approx(0.3)
    assert relevance_rank_accuracy(np.zeros(5), inside) == pytest.approx(0.3)
    assert relevance_mass_accuracy(np.zeros(5), inside) == 0


def test_targets_that_are_everything_or_nothing() -> None:
    assert auroc(np.arange(3.0), np.ones(3)) == 0.5
    assert auroc(np.arange(3.0), np.zeros(3)) == 0.5
    with pytest.raises(InputError, match="nothing is on the target"):
        auprc(np.arange(3.0), np.zeros(3))
    with pytest.raises(InputError, match="NaN or infinity"):
        auroc(np.array([1.0, np.nan]), np.array([1.0, 0.0]))


def test_word_auroc_leaves_the_special_tokens_out() -> None:
    relevance = np.array([9.0, 0.1, 0.9, 0.5, 9.0])
    assert word_auroc(relevance, [2]) == 1
    assert word_auroc(relevance, [3]) == 0.5
    assert word_auroc(relevance, []) is None
    assert word_auroc(relevance, [1, 2, 3]) is None
