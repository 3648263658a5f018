"""A frozen convolutional backbone, run with its batch normalisation folded into the convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-5  # fixed inside the library's frozen normalisations
_STATISTICS = {"weight", "bias", "running_mean", "running_var"}


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
        and is_frozen_normalisation(getattr(block, "normalization", None))
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


def is_frozen_normalisation(module: nn.Module | None) -> bool:
    """Whether a module is a batch normalisation whose statistics and weights are constants (buffers).

    Every architecture of the library has such a class of its own, alike but for the name.
    """
    return module is not None and not list(module.parameters()) and set(dict(module.named_buffers())) == _STATISTICS


class _Folded(nn.Module):
    """A convolution with the frozen normalisation after it.

    Scale and shift are those of the frozen normalisation's own forward pass, operation by operation, so they have its
    bits. `torch.nn.utils.fusion.fuse_conv_bn_weights` rounds the bias otherwise: in float32 that moves relevance of the
    embedded scenes by up to 1.5e-4 of a map's largest value, which is enough to change masks.
    """

    @torch.no_grad()
    def __init__(self, convolution: nn.Conv2d, norm: Any) -> None:
        super().__init__()
        scale = norm.weight * (norm.running_var + EPSILON).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        self.weight = convolution.weight * scale[:, None, None, None]
        self.bias = shift if convolution.bias is None else shift + convolution.bias * scale
        self.settings = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, dilation, groups = self.settings
        return nn.functional.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
