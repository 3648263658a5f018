"""Folded normalisation gives the backbone's own features and leaves the backbone as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import picture, tiny_detr
from torch import nn
from transformers.models.conditional_detr.modeling_conditional_detr import ConditionalDetrFrozenBatchNorm2d
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from hetexp.models.backbone import folded, is_frozen_normalisation


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


def test_scale_and_shift_have_the_bits_of_the_normalisation_itself() -> None:
    """A 1x1 convolution by 1 leaves the input as it is, so scale and shift show by themselves."""
    g = torch.Generator().manual_seed(1)
    norm = DetrFrozenBatchNorm2d(200)
    for name, buffer in norm.named_buffers():
        buffer.copy_(torch.rand(200, generator=g) + 0.1 if name == "running_var" else torch.randn(200, generator=g))
    block = nn.Module()
    block.convolution = nn.Conv2d(200, 200, 1, groups=200, bias=False)
    block.normalization = norm
    nn.init.ones_(block.convolution.weight)
    zeros, ones = torch.zeros(1, 200, 1, 1), torch.ones(1, 200, 1, 1)
    with torch.no_grad():
        want = [norm(x) for x in (zeros, ones)]
        with folded(block):
            got = [block.convolution(x) for x in (zeros, ones)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_what_counts_as_a_frozen_normalisation() -> None:
    assert is_frozen_normalisation(DetrFrozenBatchNorm2d(3))
    assert is_frozen_normalisation(ConditionalDetrFrozenBatchNorm2d(3))
    assert not is_frozen_normalisation(nn.BatchNorm2d(3))
    assert not is_frozen_normalisation(nn.BatchNorm2d(3, affine=False))
    assert not is_frozen_normalisation(nn.Identity())
    assert not is_frozen_normalisation(None)


def test_restored_after_an_error() -> None:
    backbone = tiny_detr(3).model.backbone
    count = norms(backbone)
    activations = [module for module in backbone.modules() if isinstance(module, nn.ReLU)]
    assert activations
    with pytest.raises(ValueError, match="channel"), folded(backbone):
        backbone(torch.zeros(1, 5, 8, 8, dtype=torch.float64), torch.ones(1, 8, 8))
    assert norms(backbone) == count
    assert not any(module.inplace for module in activations)
