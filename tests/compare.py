"""Comparison of relevance maps, each against its own size."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return 1e-3 if method == "grad_cam" else 1e-4  # the mean gradient cancels
