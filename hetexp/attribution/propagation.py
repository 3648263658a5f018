"""Propagation of attention scores through the program, one row at a time.

The rules (paper Eq. 4-7) are linear in the score matrices and only the explained token's row is wanted. So the
program is walked backwards with row vectors: for "X attends Y", r[Y] += r[X] A. No N x N x N product is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hetexp.attribution.maps import Map
from hetexp.models.trace import AttentionStep, AttentionTrace, Group

Rows = dict[str, Tensor]  # per stream [k, N]
MapOf = Callable[[AttentionStep], Map]  # corrected map of a step


def readout_rows(trace: AttentionTrace) -> Rows:
    """One-hot rows of the explained tokens; the other streams start at 0."""
    like = next(trace.steps()).values
    rows = {s: like.new_zeros(trace.n_targets, n) for s, n in trace.sizes.items()}
    for stream, tokens in trace.readouts.items():
        rows[stream][torch.arange(trace.n_targets, device=like.device), tokens] = 1
    return rows


def walk_back(rows: Rows, groups: Sequence[Group], map_of: MapOf) -> Rows:
    """Rows of the program's output, expressed at its input (Eq. 4-7 read from the last group to the first)."""
    current = dict(rows)
    for group in reversed(groups):
        before = dict(current)
        for step in group:
            current[step.key] = current[step.key] + map_of(step).apply(before[step.query])
    return current


def encoder_steps(trace: AttentionTrace, stream: str) -> list[AttentionStep]:
    """Self-attention steps of one stream in the homologous part, first to last."""
    return [step for group in trace.encoder for step in group if step.query == stream]


def rollout_increment(rows: Tensor, steps: Sequence[AttentionStep], map_of: MapOf) -> Tensor:
    """rows (R - I) for the rollout R = (I + A_L) ... (I + A_1) of Eq. 5, rows [k, N] -> [k, N].

    The identity is left out of the running sum, so nothing cancels where the maps are small.
    """
    increment = torch.zeros_like(rows)
    for step in reversed(steps):
        increment = increment + map_of(step).apply(rows + increment)
    return increment


def rollout_row_sums(steps: Sequence[AttentionStep], map_of: MapOf, like: Tensor) -> Tensor:
    """Row sums of R - I for the rollout of Eq. 5, [k, N]; `like` [k, N] gives shape and type."""
    sums = torch.zeros_like(like)
    for step in steps:
        sums = sums + map_of(step).times((1 + sums).unsqueeze(2)).squeeze(2)
    return sums


def per_sum(rows: Tensor, sums: Tensor) -> Tensor:
    """rows / sums, and 0 where a sum is 0 or so small that its reciprocal leaves the floating range."""
    empty = sums.abs() < 1e6 * torch.finfo(sums.dtype).tiny
    return torch.where(empty, 0, rows / torch.where(empty, 1, sums))


def normalised_rollout(rows: Tensor, steps: Sequence[AttentionStep], map_of: MapOf, by: str = "row") -> Tensor:
    """rows (N / S + I) with N = R - I of the rollout R: the noise link (Eq. 8-10).

    Args:
        rows: [k, N].
        by: "row" (one S per row) or "total" (one S for the matrix). Rows or matrices with S = 0 stay I.
    """
    sums = rollout_row_sums(steps, map_of, rows)
    if by == "total":
        sums = sums.sum(1, keepdim=True)
    return rows + rollout_increment(per_sum(rows, sums), steps, map_of)


def through_encoder(rows: Mapping[str, Tensor], trace: AttentionTrace, map_of: MapOf, noise_link: str | None) -> Rows:
    """Rows at the first fusion step, carried back to the inputs through each stream's own encoder."""
    out = dict(rows)
    for stream in rows:
        steps = encoder_steps(trace, stream)
        if not steps:
            continue
        if noise_link is None:
            out[stream] = rows[stream] + rollout_increment(rows[stream], steps, map_of)
        else:
            out[stream] = normalised_rollout(rows[stream], steps, map_of, noise_link)
    return out
