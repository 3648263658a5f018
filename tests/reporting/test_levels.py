"""Relevance level by level, and sampled points, of a multi-scale detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import picture, tiny_deformable_detr, tiny_detr

import hetexp
from hetexp.errors import InputError
from hetexp.explanation import Explanation
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.detr import DetrAdapter
from hetexp.targets import Logit


@pytest.fixture(scope="module")
def explained() -> Explanation:
    photo = Image.fromarray(np.full((64, 48, 3), 120, dtype=np.uint8))
    adapter = DeformableDetrAdapter(tiny_deformable_detr(1))
    targets = [Logit(0, 2), Logit(1, 4)]
    return hetexp.explain(adapter, {"pixel_values": picture(64, 48)}, ["ours_pos"], targets, image=photo)


def test_points_are_where_the_last_layer_samples(explained: Explanation) -> None:
    """Their weights add up to one in every head."""
    assert explained.points is not None
    heads, levels, points = 4, 3, 4
    assert explained.points.shape == (2, heads * levels * points, 3)
    sums = explained.points[..., 2].unflatten(1, (heads, -1)).sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-12)


def test_every_level_is_drawn_with_its_share(explained: Explanation) -> None:
    figure = explained.plot_levels("ours_pos")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "Sampled points"
    assert [t.partition(",")[0] for t in titles[1:4]] == ["8 × 6 cells", "4 × 3 cells", "2 × 2 cells"]
    shares = [float(t.partition(", ")[2].removesuffix(" %")) for t in titles[1:4]]
    assert 98 <= sum(shares) <= 102
    dots = figure.axes[0].collections[0].get_offsets()
    assert 0 < len(np.asarray(dots)) <= 48


def test_what_cannot_be_drawn(explained: Explanation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method 'gae' is not in this explanation: it holds ours_pos"):
        explained.plot_levels("gae")
    photo = Image.fromarray(np.zeros((64, 48, 3), dtype=np.uint8))
    inputs = {"pixel_values": picture(64, 48)}
    other = hetexp.explain(DetrAdapter(tiny_detr()), inputs, ["gae"], Logit(0, 1), image=photo)
    assert other.points is None
    with pytest.raises(InputError, match="samples several, such as deformable_detr; this explanation of detr"):
        other.plot_levels("gae")
