"""Relevance maps to segmentation masks: 8-bit thresholds, upsampling to the image, COCO run-length encoding.

Binarisation happens on the token grid; the masks then travel to the pixels of the network input and on to those of
the original image. Shapes: k maps, token grid [h, w], original image [H, W]. Sizes are always (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torch import Tensor

from hetexp.errors import InputError
from hetexp.evaluation.thresholds.otsu import OTSU
from hetexp.evaluation.thresholds.strategy import GreyMaps, Strategy
from hetexp.evaluation.upsampling import Tie, Upsampling

# GAE's code asks for sigmoid(255 x) > 0.5 in float32, which takes any weight but the rounding noise of a corner.
_TOUCHED = 1.5 * 2.0**-24 / 255
# How a mask is interpolated to the network input, and above which value a pixel is foreground.
_MASK_UPSAMPLING = {
    Upsampling.reference: ("linear", _TOUCHED),
    Upsampling.bilinear: ("linear", 0.5),
    Upsampling.nearest: ("nearest", 0.5),
}
_CHUNK = 16  # masks held at once at the size of the network input (4 MB each at 800 x 1333)


def to_uint8(relevance: Tensor) -> Tensor:
    """Min-max each map to 0..255 in float32 and truncate.

    Args:
        relevance: [k, h, w].

    Returns:
        uint8 [k, h, w]; a constant map becomes all 0.

    Raises:
        InputError: on another shape, and if a map holds NaN or infinity.
    """
    if relevance.ndim != 3 or 0 in relevance.shape[1:]:
        raise InputError(
            f"relevance must have shape [k, h, w] with h, w > 0, got {list(relevance.shape)}: "
            "add a leading axis to a single map"
        )
    maps = relevance.detach().float()
    finite = maps.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise InputError(
            f"relevance map {', '.join(map(str, bad))} of {len(maps)} holds NaN or infinity, expected finite values: "
            "leave these maps out, or look for an overflow in the model's gradients (half precision?)"
        )
    low = maps.amin(dim=(1, 2), keepdim=True)
    span = maps.amax(dim=(1, 2), keepdim=True) - low
    if span.isinf().any():  # the ends lie further apart than float32 reaches
        maps, low, span = maps / 4, low / 4, (maps / 4).amax(dim=(1, 2), keepdim=True) - low / 4
    unit = torch.where(span > 0, (maps - low) / span, torch.zeros_like(maps))
    return (unit * 255).to(torch.uint8)


def finite_maps(relevance: Tensor) -> tuple[Tensor, int]:
    """Maps [k, h, w] with those that are not finite set to 0, which gives empty masks; and how many those are."""
    finite = relevance.flatten(1).isfinite().all(1)
    return torch.where(finite[:, None, None], relevance, 0), int((~finite).sum())


def otsu(relevance: Tensor, scale: float = 1.0, tie: Tie | str = Tie.background) -> Tensor:
    """Foreground of each map: 8-bit value > scale * Otsu threshold.

    Args:
        relevance: [k, h, w].
        scale: 1.0 is Otsu's own threshold.
        tie: what a token exactly at the threshold is. Otsu's threshold is a grey level that occurs, so there are such.

    Returns:
        bool [k, h, w]; a constant map gives an empty mask.

    Raises:
        InputError: on NaN or infinity, on a scale that is not positive, and on an unknown tie.
    """
    return binarise(relevance, OTSU, scale, tie=tie)


def binarise(
    relevance: Tensor,
    strategy: Strategy = OTSU,
    scale: float = 1.0,
    thresholds: Tensor | None = None,
    tie: Tie | str = Tie.background,
) -> Tensor:
    """Foreground of each map: 8-bit value > scale * threshold.

    Args:
        relevance: [k, h, w].
        strategy: what gives each map its threshold, see `hetexp.evaluation.thresholds.registry.get_strategy`.
        scale: multiple of the threshold.
        thresholds: [k], these maps' own from the strategy, where they are known already.
        tie: what a token exactly at the threshold is.

    Returns:
        bool [k, h, w]; a constant map gives an empty mask.

    Raises:
        InputError: on NaN or infinity, on a scale that is not positive or that the strategy has no use for, on a
            strategy that needs the ground truth, and on an unknown tie.
    """
    strategy.check_scale(scale)
    u8 = to_uint8(relevance)
    levels = strategy.thresholds([GreyMaps(u8)])[0] if thresholds is None else thresholds
    return foreground(u8, levels, [scale], tie)[0]


def foreground(u8: Tensor, thresholds: Tensor, scales: Sequence[float], tie: Tie | str = Tie.background) -> Tensor:
    """`binarise` of 8-bit maps at several scales, whose masks lie within each other.

    Args:
        u8: uint8 [k, h, w].
        thresholds: of the maps, float64 [k].
        scales: multiples of the thresholds [S].
        tie: see `binarise`.

    Returns:
        bool [S, k, h, w].

    Raises:
        InputError: on a scale that is not positive, and on an unknown tie.
    """
    for scale in scales:
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"threshold scale must be a finite number > 0, got {scale}: 1.0 is the threshold itself")
    multiples = torch.tensor(list(scales), dtype=torch.float64, device=thresholds.device)
    return above(u8, multiples[:, None] * thresholds, tie)


def above(u8: Tensor, levels: Tensor, tie: Tie | str = Tie.background) -> Tensor:
    """Which tokens of 8-bit maps lie above grey levels.

    Args:
        u8: uint8 [k, h, w].
        levels: one for each map, several times over, float64 [S, k]; [S, 1] are the same for all maps.
        tie: see `binarise`.

    Returns:
        bool [S, k, h, w].

    Raises:
        InputError: on an unknown tie.
    """
    if tie not in set(Tie):
        raise InputError(f"unknown tie '{tie}'. Available: {', '.join(Tie)}")
    values, least = u8.double(), levels[:, :, None, None]
    return values > least if tie == Tie.background else (values >= least) & (values > 0)


def to_image(masks: Tensor, input_size: Sequence[int], image_size: Sequence[int]) -> Tensor:
    """Token masks to masks of the original image, by the reference upsampling.

    Bilinear to the network input, foreground wherever anything of a foreground token reaches (so masks grow by up to
    one token), then nearest to the original image.

    Args:
        masks: bool [k, h, w].
        input_size: of the network input without padding, (height, width).
        image_size: of the original image, (height, width).

    Returns:
        bool [k, H, W].

    Raises:
        InputError: on another shape, and on sizes that are not two positive whole numbers.
    """
    return _through_input(masks, input_size, image_size, *_MASK_UPSAMPLING[Upsampling.reference])


def segment(
    relevance: Tensor,
    scale: float,
    input_size: Sequence[int],
    image_size: Sequence[int],
    upsample: Upsampling | str = Upsampling.reference,
    thresholds: Tensor | None = None,
    tie: Tie | str = Tie.background,
    strategy: Strategy = OTSU,
) -> Tensor:
    """Relevance to masks of the original image.

    Args:
        relevance: [k, h, w].
        scale: of the threshold, see `binarise`.
        input_size: of the network input without padding, (height, width).
        image_size: of the original image, (height, width).
        upsample: a member of `Upsampling`, or its name.
        thresholds: see `binarise`; they do not apply to `bilinear_relevance`, which thresholds maps when upsampled.
        tie: likewise.
        strategy: likewise.

    Returns:
        bool [k, H, W].

    Raises:
        InputError: on an unknown upsampling, and as `binarise` and `to_image` do.
    """
    if upsample not in set(Upsampling):
        raise InputError(f"unknown upsample '{upsample}'. Available: {', '.join(Upsampling)}")
    if upsample != Upsampling.bilinear_relevance:
        mode, level = _MASK_UPSAMPLING[Upsampling(upsample)]
        masks = binarise(relevance, strategy, scale, thresholds, tie)
        return _through_input(masks, input_size, image_size, mode, level)
    binarise(relevance, strategy, scale)  # refuses a bad scale or map, the map by its number among all
    _check_sizes(input_size, image_size)
    parts = [
        _resize(binarise(_resize(part, input_size, "bilinear"), strategy, scale, tie=tie).float(), image_size)
        for part in relevance.detach().float().split(_CHUNK)
    ]
    return torch.cat(parts) > 0.5


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's run-length encoding of masks.

    Args:
        masks: bool [k, H, W].

    Returns:
        k dicts {"size": [H, W], "counts": str}, ready for JSON.

    Raises:
        InputError: on another shape.
    """
    if masks.ndim != 3:
        raise InputError(f"masks must have shape [k, H, W], got {list(masks.shape)}")
    if len(masks) == 0:
        return []
    columns = np.asfortranarray(masks.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [{"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in rle.encode(columns)]


def _through_input(
    masks: Tensor, input_size: Sequence[int], image_size: Sequence[int], mode: str, level: float
) -> Tensor:
    """Masks by `mode` to the input, foreground above `level`, then nearest to the image.

    Interpolation is separable and nearest only picks pixels, so two small products per mask give the picked pixels at
    a sixth of the cost of the full-size interpolation.
    """
    _check_sizes(input_size, image_size)
    if masks.ndim != 3:
        raise InputError(f"masks must have shape [k, h, w], got {list(masks.shape)}")
    rows, columns = (
        axis_weights(tokens, inputs, pixels, mode).to(masks.device)
        for tokens, inputs, pixels in zip(masks.shape[1:], map(int, input_size), map(int, image_size), strict=True)
    )
    return rows @ masks.float() @ columns.T > level


def mask_upsampling(upsample: Upsampling) -> tuple[str, float]:
    """How token masks are interpolated to the input, and above which value a pixel is foreground.

    Raises:
        KeyError: for `bilinear_relevance`, which upsamples relevance.
    """
    return _MASK_UPSAMPLING[upsample]


@lru_cache(maxsize=256)
def axis_weights(tokens: int, inputs: int, pixels: int, mode: str) -> Tensor:
    """[pixels, tokens]: a token's weight, along one axis, in the input's pixel that an image pixel picks."""
    onto_input = F.interpolate(torch.eye(tokens)[None], size=inputs, mode=mode)
    return F.interpolate(onto_input, size=pixels, mode="nearest")[0].T.contiguous()


def _resize(maps: Tensor, size: Sequence[int], mode: str = "nearest") -> Tensor:
    if len(maps) == 0:
        return maps.new_zeros((0, *size))
    return F.interpolate(maps[:, None], size=tuple(size), mode=mode)[:, 0]


def _check_sizes(*sizes: Sequence[int]) -> None:
    for size in sizes:
        if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
            raise InputError(f"a size must be two whole numbers > 0 (height, width), got {list(size)}")
