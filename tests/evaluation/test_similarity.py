"""Similarity of maps, ties at Otsu's threshold, and orders of cells, on numbers known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hetexp.errors import InputError
from hetexp.evaluation.masks import otsu, segment, to_uint8
from hetexp.evaluation.similarity import rank_correlation, relative_difference
from hetexp.evaluation.thresholds.otsu import otsu_thresholds
from hetexp.evaluation.upsampling import Tie
from hetexp.experiments.detection.deletion import steps_of


def test_rank_correlation() -> None:
    rising = np.array([1.0, 2.0, 3.0, 40.0])
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 50).astype(float), rng.random(50)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12), "with ties"


def test_maps_without_differences_have_no_order() -> None:
    flat, other = np.ones(4), np.arange(4.0)
    assert rank_correlation(flat, 2 * flat) == 1
    assert rank_correlation(flat, other) == rank_correlation(other, flat) == 0


def test_relative_difference() -> None:
    assert relative_difference(np.array([1.0, -3.0]), np.array([1.0, -4.0])) == 0.25
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0
    assert relative_difference(np.array([0.0, 1e-9]), np.zeros(2)) == 1
    for measure in (rank_correlation, relative_difference):
        with pytest.raises(InputError, match=r"two maps of the same tokens are needed, got shapes \(2,\) and \(3,\)"):
            measure(np.zeros(2), np.zeros(3))


def test_a_token_at_the_threshold() -> None:
    """Grey levels 0, 100 and 255: Otsu's threshold is one that occurs, 0 or 100, and strictly above leaves it out."""
    relevance = torch.tensor([[[0.0, 100.0, 255.0, 255.0], [0.0, 0.0, 100.0, 255.0]]])
    level = float(otsu_thresholds(to_uint8(relevance))[0])
    assert level == 100
    above, with_level = otsu(relevance), otsu(relevance, tie="foreground")
    assert above[0].tolist() == [[False, False, True, True], [False, False, False, True]]
    assert with_level[0].tolist() == [[False, True, True, True], [False, False, True, True]]
    # a little below the threshold there is no tie any more
    assert torch.equal(otsu(relevance, 0.99), with_level)
    assert torch.equal(otsu(relevance, 0.99, tie=Tie.foreground), with_level)
    masks = segment(relevance, 1.0, (20, 40), (20, 40), "nearest", tie=Tie.foreground)
    assert torch.equal(masks[0, ::10, ::10], with_level[0])


def test_a_constant_map_is_empty_whatever_the_tie() -> None:
    for tie in Tie:
        assert not otsu(torch.ones(1, 3, 4), tie=tie).any()
    with pytest.raises(InputError, match=r"unknown tie 'both'. Available: background, foreground"):
        otsu(torch.ones(1, 3, 4), tie="both")


def test_most_relevant_cells_come_first() -> None:
    relevance = torch.tensor([[0.5, 0.1], [0.9, 0.5]])
    steps = steps_of(relevance, (0.0, 0.25, 0.5, 1.0))
    assert steps.int().tolist() == [[[0, 0], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]]
