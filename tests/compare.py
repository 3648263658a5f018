"""Comparison of relevance maps, each against its own size."""

from __future__ import annotations

import torch
from torch import Tensor

from hetexp.attribution.attribute import build_methods
from hetexp.attribution.method import Method
from hetexp.attribution.registry import METHODS


def distance(got: Tensor, want: Tensor) -> float:
    """Largest difference of any map [k, ...] over that map's largest value; NaN only where both are NaN."""
    assert got.shape == want.shape, (got.shape, want.shape)
    got, want = got.double().flatten(1), want.double().flatten(1)
    assert torch.equal(got.isnan(), want.isnan())
    got, want = got.nan_to_num(), want.nan_to_num()
    size = want.abs().amax(1)
    off = (got - want).abs().amax(1)
    assert bool((off[size == 0] == 0).all())
    return float((off / size.clamp(min=1e-300)).max()) if len(off) else 0.0


def tolerance(method: str, dtype: torch.dtype) -> float:
    if method in ("partial_lrp", "transformer_attribution", "gae_lrp"):  # they divide by sums that nearly cancel
        return 1e-5 if dtype == torch.float64 else 1e-1
    if dtype == torch.float64:
        return 1e-9
    return 1e-3 if method in ("grad_cam", "odam") else 1e-4  # sums of products with gradients that nearly cancel


# Methods that not every model can be explained by, or that cost many passes; they have tests of their own.
PARTICULAR = ("d_rise", "atman", "smooth_grad", "token_tm", "beyond_intuition", "integrated_gradients")


def general_methods(*, sampled: bool = False) -> dict[str, Method]:
    """The methods for every model; for one that samples its keys, those that need no queries and keys are left."""
    left_out = (*PARTICULAR, "grad_eclip") if sampled else PARTICULAR
    return build_methods(name for name in METHODS if name not in left_out)
