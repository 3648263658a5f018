"""A frozen convolutional backbone, run with its batch normalisation folded into the convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.errors import InputError

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


@torch.no_grad()
def padded_features(
    backbone: nn.Module, pixels: Tensor, sizes: Sequence[tuple[int, int]], autocast: torch.dtype | None
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Features [B, C, h, w] of padded images [B, 3, H, W], their valid cells [B, h, w], and how far these reach.

    Convolutions would let the padding leak into the image's border cells, so each image's own rectangle is
    run alone (equal sizes together): a padded image has exactly the features of the unpadded one.

    Args:
        sizes: height and width of each image without padding.
        autocast: precision of the convolutions; None leaves the backbone's own.
    """
    batch, _, height, width = pixels.shape
    maps: list[Tensor | None] = [None] * batch
    for size in dict.fromkeys(sizes):
        members = [b for b in range(batch) if sizes[b] == size]
        crop = pixels[members, :, : size[0], : size[1]].contiguous(memory_format=torch.channels_last)  # faster
        with nullcontext() if autocast is None else torch.autocast(crop.device.type, autocast):
            features = backbone(crop, torch.ones(crop.shape[0], *size, device=crop.device))[-1][0].to(crop.dtype)
        if len(dict.fromkeys(sizes)) == 1 and size == (height, width):  # nothing is padded
            h, w = features.shape[2:]
            return features, features.new_ones(batch, h, w, dtype=torch.bool), [(h, w)] * batch
        for row, b in enumerate(members):
            maps[b] = features[row]
    first = maps[0]
    assert first is not None
    h = grid_length(height, sizes[0][0], first.shape[1])
    w = grid_length(width, sizes[0][1], first.shape[2])
    out = first.new_zeros(batch, first.shape[0], h, w)
    mask = torch.zeros(batch, h, w, dtype=torch.bool, device=first.device)
    grids = []
    for b, feature in enumerate(maps):
        assert feature is not None
        grids.append((feature.shape[1], feature.shape[2]))
        out[b, :, : feature.shape[1], : feature.shape[2]] = feature
        mask[b, : feature.shape[1], : feature.shape[2]] = True
    return out, mask, grids


def valid_sizes(mask: Tensor) -> list[tuple[int, int]]:
    """Height and width of the real pixels of a `pixel_mask` [B, H, W], a top-left rectangle of each image.

    All of them come from the device in one copy.

    Raises:
        InputError: for a mask of another shape.
    """
    real = mask.bool()
    rows, columns = real.any(2), real.any(1)  # [B, H], [B, W]
    heights, widths = rows.sum(1), columns.sum(1)
    first_rows = torch.arange(rows.shape[1], device=mask.device) < heights[:, None]
    first_columns = torch.arange(columns.shape[1], device=mask.device) < widths[:, None]
    fits = (real == first_rows[:, :, None] & first_columns[:, None]).flatten(1).all(1)
    sizes = []
    for height, width, pixels, fit in torch.stack([heights, widths, real.flatten(1).sum(1), fits], 1).tolist():
        if not (fit and pixels):
            raise InputError(
                "pixel_mask must mark one rectangle at the top left of the image (1 = real pixel, 0 = padding); "
                f"got {pixels} real pixels in {height} rows and {width} columns"
            )
        sizes.append((height, width))
    return sizes


def grid_length(padded: int, real: int, cells: int) -> int:
    """Cells along a padded side, from how many cells its real part of `real` pixels became.

    Every layer of stride 2 maps n to ceil(n / 2); where that does not lead to `cells` (square patches), a cell is taken
    to be as long everywhere.
    """
    halved, cell = real, real / cells
    length = padded
    while halved > cells:
        halved, length = -(-halved // 2), -(-length // 2)
    return length if halved == cells else math.ceil(padded / cell)
