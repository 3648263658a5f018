"""Localisation on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hetexp.evaluation.localisation import coverage, pointing_game, relevance_mass_accuracy, word_rank

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
    assert relevance_mass_accuracy(np.array([-1.0, -5.0, 0.0]), covered) is None


def test_pointing_takes_the_centre_of_the_top_region() -> None:
    assert pointing_game(np.array([3.0, 1.0, 2.0]), BOXES, MASK)
    assert not pointing_game(np.array([1.0, 3.0, 2.0]), BOXES, MASK)


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
