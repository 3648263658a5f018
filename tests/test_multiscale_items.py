"""One input of an explained batch, of a detector that sees an image at several scales."""

from __future__ import annotations

import torch
from tiny import picture, tiny_deformable_detr

import hetexp
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.targets import Logit


def test_an_item_keeps_its_own_levels_tokens_and_points() -> None:
    """The smaller picture is padded in the batch; its grids are its own, valid part and all."""
    adapter = DeformableDetrAdapter(tiny_deformable_detr(3))
    pixels, mask = torch.zeros(2, 3, 64, 96, dtype=torch.float64), torch.zeros(2, 64, 96)
    for row, (height, width) in enumerate([(64, 96), (32, 64)]):
        pixels[row, :, :height, :width] = picture(height, width, seed=row)[0]
        mask[row, :height, :width] = 1
    batch = {"pixel_values": pixels, "pixel_mask": mask}
    both = hetexp.explain(adapter, batch, ["gae"], [[Logit(0, 1), Logit(1, 2)], [Logit(2, 3)]])
    one = both.item(1)
    assert both.points is not None
    assert one.points is not None
    assert torch.equal(one.tokens("gae", "image"), both.tokens("gae", "image")[2:])
    assert torch.equal(one.points, both.points[2:])
    assert one.levels == both.levels[1:]
    assert one.levels[0] != both.levels[0]
    assert [row.query for row in one.rows] == [3]
