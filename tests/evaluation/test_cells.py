"""Areas and overlaps from cells, against the pixels themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from hetexp.evaluation.cells import Cells, run_lengths
from hetexp.evaluation.masks import encode, otsu, segment
from hetexp.evaluation.upsampling import Upsampling


def blobs(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Masks [count, H, W] of rectangles with holes; the first is empty, the second full."""
    masks = np.zeros((count, *size), dtype=bool)
    masks[1:2] = True
    for mask in masks[2:]:
        for value in (True, True, False):
            (y, x), (h, w) = rng.integers(0, size), rng.integers(1, np.maximum(2, size))
            mask[y : y + h, x : x + w] = value
    return masks


@pytest.mark.parametrize("upsample", [u for u in Upsampling if u != Upsampling.bilinear_relevance])
@pytest.mark.parametrize("seed", range(12))
def test_cells_give_the_pixels_of_masks_and_of_what_they_share(seed: int, upsample: Upsampling) -> None:
    rng = np.random.default_rng(seed)
    h, w = (int(n) for n in rng.integers(1, 14, 2))
    input_size = (32 * h - int(rng.integers(0, 32)), 32 * w - int(rng.integers(0, 32)))
    size = (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
    relevance = torch.from_numpy(rng.random((5, h, w)) ** 2).float()
    pixels = segment(relevance, 0.9, input_size, size, upsample).numpy()
    objects = blobs(rng, size, 4)

    cells = Cells.of((h, w), input_size, size, upsample)
    cover, count = cells.cover(otsu(relevance, 0.9)), cells.count(encode(torch.from_numpy(objects)))
    assert (cover @ cells.areas).tolist() == pixels.sum((1, 2)).tolist()
    assert count.sum(axis=1).tolist() == objects.sum((1, 2)).tolist()
    assert np.array_equal(cover @ count.T, np.einsum("ahw,bhw->ab", pixels.astype(int), objects.astype(int)))


def test_the_reference_makes_few_cells_of_many_pixels() -> None:
    cells = Cells.of((25, 34), (800, 1066), (480, 640), Upsampling.reference)
    assert cells.areas.sum() == 480 * 640
    assert len(cells.areas) < 52 * 70


def test_relevance_that_is_upsampled_first_has_cells_of_one_pixel() -> None:
    masks = torch.rand(3, 11, 7) > 0.5
    cells = Cells.of((2, 2), (20, 20), (11, 7), Upsampling.bilinear_relevance)
    assert np.array_equal(cells.cover(masks), cells.count(encode(masks)))
    assert cells.areas.tolist() == [1.0] * 77


def test_no_object_is_an_empty_count() -> None:
    assert Cells.of((2, 2), (64, 64), (50, 40), Upsampling.nearest).count([]).shape == (0, 4)


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for mask in blobs(rng, (70, 900), 5):  # long runs need several symbols, and differences of both signs
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        runs = run_lengths(code["counts"])
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.T.reshape(-1))
        assert np.array_equal(run_lengths(code["counts"].decode()), runs)
