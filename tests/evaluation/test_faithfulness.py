"""Ground-truth measures on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hetexp.evaluation.faithfulness import coverage, object_share, points_at, word_rank

MASK = np.zeros((10, 20), dtype=bool)
MASK[:, :10] = True  # left half
BOXES = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.25, 0.0, 0.75, 0.5]])


def test_coverage_of_boxes_inside_outside_and_across():
    assert coverage(BOXES, MASK).tolist() == [1.0, 0.0, 0.5]


def test_a_box_without_area_covers_the_pixel_it_touches():
    assert coverage(np.array([[0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]]), MASK).tolist() == [1.0, 0.0]


def test_share_counts_positive_relevance_only():
    covered = coverage(BOXES, MASK)
    assert object_share(np.array([1.0, 1.0, 2.0]), covered) == pytest.approx(0.5)
    assert object_share(np.array([1.0, -5.0, 0.0]), covered) == pytest.approx(1.0)
    assert object_share(np.array([-1.0, -5.0, 0.0]), covered) is None


def test_pointing_takes_the_centre_of_the_top_region():
    assert points_at(np.array([3.0, 1.0, 2.0]), BOXES, MASK)
    assert not points_at(np.array([1.0, 3.0, 2.0]), BOXES, MASK)


def test_word_rank_is_zero_for_the_top_and_one_for_the_last():
    relevance = np.array([9.0, 0.1, 0.9, 0.5, 9.0])
    assert word_rank(relevance, [2]) == 0
    assert word_rank(relevance, [1]) == 1
    assert word_rank(relevance, [2, 1]) == 0.5
    assert word_rank(relevance, []) is None
    assert word_rank(np.zeros(5), [1]) == 0.5
