"""A frozen convolutional backbone, run with its batch normalisation folded into the convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

EPSILON = 1e-5  # fixed inside DETR's frozen normalisation


@contextmanager
def folded(backbone: nn.Module) -> Iterator[None]:
    """Every convolution followed by a frozen normalisation does the work of both inside.

    A frozen normalisation is a scale and a shift per channel, so it can move into weights and bias: a quarter of the
    backbone's time. Blocks of another make are left alone. ReLUs overwrite their input, so only for a pass without
    gradients. The model is as before on leaving.
    """
    activations = [module for module in backbone.modules() if isinstance(module, nn.ReLU) and not module.inplace]
    blocks = [
        block
        for block in backbone.modules()
        if isinstance(getattr(block, "convolution", None), nn.Conv2d)
        and isinstance(getattr(block, "normalization", None), DetrFrozenBatchNorm2d)
    ]
    before: list[tuple[Any, Any]] = [(block.convolution, block.normalization) for block in blocks]
    try:
        for block, (convolution, norm) in zip(blocks, before, strict=True):
            block.convolution, block.normalization = _Folded(convolution, norm), nn.Identity()
        for activation in activations:
            activation.inplace = True
        yield
    finally:
        for activation in activations:
            activation.inplace = False
        for block, (convolution, norm) in zip(blocks, before, strict=True):
            block.convolution, block.normalization = convolution, norm


class _Folded(nn.Module):
    """A convolution with the frozen normalisation after it."""

    @torch.no_grad()
    def __init__(self, convolution: nn.Conv2d, norm: DetrFrozenBatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight * (norm.running_var + EPSILON).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        self.shift = shift if convolution.bias is None else shift + convolution.bias * scale
        self.scaled = convolution.weight * scale[:, None, None, None]
        self.settings = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, dilation, groups = self.settings
        return nn.functional.conv2d(x, self.scaled, self.shift, stride, padding, dilation, groups)
