"""Folded normalisation gives the backbone's own features and leaves the backbone as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import picture, tiny_detr
from torch import nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from hetexp.models.backbone import folded


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, DetrFrozenBatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("bias", [False, True])
def test_same_features(bias: bool) -> None:
    backbone = tiny_detr(3).model.backbone
    g = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, DetrFrozenBatchNorm2d):
            module.weight.uniform_(0.5, 2, generator=g)
            module.bias.normal_(generator=g)
        elif isinstance(module, nn.Conv2d) and bias:
            module.bias = nn.Parameter(torch.randn(module.out_channels, generator=g, dtype=torch.float64))
    pixels, mask = picture(50, 70), torch.ones(1, 50, 70)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    count = norms(backbone)
    assert count > 3
    with torch.no_grad():
        want = backbone(pixels, mask)[-1][0]
        with folded(backbone):
            assert norms(backbone) == 0
            got = backbone(pixels, mask)[-1][0]
    assert torch.allclose(got, want, rtol=0, atol=1e-12 * float(want.abs().max()))
    assert norms(backbone) == count
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_restored_after_an_error() -> None:
    backbone = tiny_detr(3).model.backbone
    count = norms(backbone)
    activations = [module for module in backbone.modules() if isinstance(module, nn.ReLU)]
    assert activations
    with pytest.raises(ValueError, match="channel"), folded(backbone):
        backbone(torch.zeros(1, 5, 8, 8, dtype=torch.float64), torch.ones(1, 8, 8))
    assert norms(backbone) == count
    assert not any(module.inplace for module in activations)
