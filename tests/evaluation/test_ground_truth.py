"""Measures of a detection's map on scenes drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hetexp.evaluation.ground_truth import Surroundings, grid_boxes, grid_mean, map_measures

# 8 x 8 pixels, a grid of 4 x 4: the target is the upper left cell and half of its right neighbour
TARGET, SIBLING, OTHER = np.zeros((3, 8, 8), dtype=bool)
TARGET[:2, :3] = True
SIBLING[6:, 6:] = True
OTHER[6:, :2] = True


def test_cells_hold_the_share_of_their_pixels() -> None:
    share = grid_mean(TARGET, 4, 4)
    assert share[0].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert share[1:].sum() == 0
    # three cells over eight pixels: the first ends within the third pixel
    assert grid_mean(TARGET, 4, 3)[0] == pytest.approx([1.0, 1 / 8, 0.0])
    assert grid_mean(np.ones((7, 5)), 3, 2) == pytest.approx(np.ones((3, 2)))


def test_boxes_of_cells_row_by_row() -> None:
    assert grid_boxes(2, 4)[:2].tolist() == [[0, 0, 0.25, 0.5], [0.25, 0, 0.5, 0.5]]
    assert grid_boxes(2, 4)[-1].tolist() == [0.75, 0.5, 1, 1]


def test_energy_of_each_part_by_hand() -> None:
    relevance = np.zeros((4, 4))
    relevance[0, 0], relevance[0, 1], relevance[3, 3], relevance[3, 0], relevance[2, 2] = 4, 2, 1, 1, 2
    relevance[1, 1] = -5  # negative relevance is none
    found = map_measures(relevance, Surroundings.of(TARGET, SIBLING, OTHER))
    assert found["energy_target"] == pytest.approx(5 / 10)
    assert found["energy_sibling"] == pytest.approx(1 / 10)
    assert found["energy_other"] == pytest.approx(1 / 10)
    assert found["energy_background"] == pytest.approx(3 / 10)
    assert found["relevance_mass_accuracy"] == found["energy_target"]
    assert found["pointing_game"] == 1
    assert found["relevance_rank_accuracy"] == pytest.approx((1 + 0.5 / 2 * 0.5) / 1.5)  # two cells tie


def test_overlapping_masks_count_once_the_target_first() -> None:
    everything = np.ones((8, 8), dtype=bool)
    around = Surroundings.of(TARGET, everything, everything)
    assert not around.other.any()
    assert not around.background.any()
    assert (around.sibling == ~TARGET).all()


def test_a_map_without_relevance_is_measured_too() -> None:
    found = map_measures(np.zeros((4, 4)), Surroundings.of(TARGET, SIBLING, OTHER))
    assert found["AUROC"] == 0.5
    assert found["pointing_game"] == 0
    assert found["AUPRC"] == pytest.approx(1.5 / 16)
    assert sum(found[f"energy_{part}"] for part in ("target", "sibling", "other", "background")) == 0


def test_no_map_ranks_better_than_the_share_of_each_cell() -> None:
    around = Surroundings.of(TARGET, SIBLING, OTHER)
    best = map_measures(grid_mean(TARGET, 4, 4), around)
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = map_measures(rng.random((4, 4)), around)
        for measure in ("AUPRC", "AUROC", "relevance_rank_accuracy", "area_matched_iou"):
            assert found[measure] <= best[measure]
