"""Explanations of tiny models, for tests of what `explain` returns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from compare import distance
from PIL import Image
from tiny import picture, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter

METHODS = ["gae", "ours_abs", "ours_full"]
SIZES = [(64, 80), (48, 64)]


def photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def detector() -> DetrAdapter:
    return DetrAdapter(tiny_detr(11, heads=4), score_threshold=0.0)


def answerer() -> LxmertAdapter:
    return LxmertAdapter(tiny_lxmert(12, heads=4), answers=["yes", "no", "red", "blue", "one", "two"])


def pictures() -> dict[str, Tensor]:
    """Two pictures of different sizes as one padded batch."""
    height, width = (max(sides) for sides in zip(*SIZES, strict=True))
    pixels = torch.zeros(2, 3, height, width, dtype=torch.float64)
    mask = torch.zeros(2, height, width, dtype=torch.long)
    for row, (h, w) in enumerate(SIZES):
        pixels[row, :, :h, :w] = picture(h, w, seed=row)[0]
        mask[row, :h, :w] = 1
    return {"pixel_values": pixels, "pixel_mask": mask}


def same(got: Mapping[str, Mapping[str, Tensor]], want: Mapping[str, Mapping[str, Tensor]], bound: float) -> None:
    assert list(got) == list(want)
    for method, streams in want.items():
        assert set(got[method]) == set(streams)
        for source, relevance in streams.items():
            assert distance(got[method][source], relevance) <= bound, (method, source)
