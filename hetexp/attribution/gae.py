"""GAE: generic attention explainability (Chefer et al., ICCV 2021), as its reference code computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.propagation import (
    MapOf,
    encoder_steps,
    normalised_rollout,
    rollout_increment,
    rollout_row_sums,
)
from hetexp.models.trace import AttentionStep, AttentionTrace

Matrices = dict[tuple[str, str], Tensor]  # R[X, Y] [k, N_X, N_Y]


@dataclass(frozen=True)
class Gae:
    """R_XX starts at I, R_XY at 0.

    Self-attention on X: R_XX += A R_XX; R_XY += A R_XY. X attends Y: R_XY += N(R_XX)^T A N(R_YY) and
    R_XX += A R_YX, where N(R) = (R - I) / rowsum(R - I) + I (its Eq. 8-11).

    A stream that fusion never updates (DETR's image) enters as one common right factor N(R_YY); it is left out of
    the matrices and applied to the wanted row at the end, so no N x N matrix of it exists.

    A zero row of R - I makes N(R) NaN. For encoder-decoder models the reference sets the whole NaN product to 0,
    so that layer adds nothing; for LXMERT it lets NaN through.

    Args:
        normalise: False leaves N out.
    """

    normalise: bool = True
    corrections: ClassVar[tuple[str, ...]] = ("pos",)
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source for the explained tokens, [k, N] each."""

        def map_of(step: AttentionStep) -> Tensor:
            return maps(step, "pos")

        fixed = {s for s in trace.sizes if all(step.query != s for group in trace.fusion for step in group)}
        scores = self._start(trace, map_of, fixed)
        undefined = {s: self._undefined(trace, s, map_of) for s in fixed}
        for group in trace.fusion:
            before = dict(scores)
            for step in group:
                if step.is_self:
                    for pair in [p for p in scores if p[0] == step.query]:
                        scores[pair] = scores[pair] + map_of(step) @ before[pair]
                else:
                    self._cross(step, map_of(step), before, scores, trace.sources_fixed, undefined)
        return {s: self._row(trace, scores, s, map_of, s in fixed) for s in trace.sources}

    def _start(self, trace: AttentionTrace, map_of: MapOf, fixed: set[str]) -> Matrices:
        like = next(trace.steps()).values
        k = trace.n_targets
        moving = [s for s in trace.sizes if s not in fixed]
        scores = {}
        for x in moving:
            for y in trace.sizes:
                scores[x, y] = like.new_zeros(k, trace.sizes[x], trace.sizes[y])
            scores[x, x] = scores[x, x] + torch.eye(trace.sizes[x], dtype=like.dtype, device=like.device)
            for step in encoder_steps(trace, x):
                scores[x, x] = scores[x, x] + map_of(step) @ scores[x, x]
        return scores

    def _normalised(self, matrix: Tensor) -> Tensor:
        if not self.normalise:
            return matrix
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        extra = matrix - eye
        return extra / extra.sum(-1, keepdim=True) + eye

    def _cross(
        self,
        step: AttentionStep,
        attention: Tensor,
        before: Matrices,
        scores: Matrices,
        sources_fixed: bool,
        undefined: dict[str, Tensor],
    ) -> None:
        x, y = step.query, step.key
        added = self._normalised(before[x, x]).transpose(1, 2) @ attention
        if y in undefined:
            added = torch.where(undefined[y][:, None, None], torch.nan, added)
        else:
            added = added @ self._normalised(before[y, y])
            scores[x, x] = scores[x, x] + attention @ before[y, x]
        if sources_fixed:
            broken = added.isnan().flatten(1).any(1)  # the product spreads NaN over every row it can reach
            added = torch.where(broken[:, None, None], 0, added)
        scores[x, y] = scores[x, y] + added

    def _undefined(self, trace: AttentionTrace, stream: str, map_of: MapOf) -> Tensor:
        """Targets [k] whose N(R_YY) has a 0 / 0 row."""
        like = next(trace.steps()).values.new_zeros(trace.n_targets, trace.sizes[stream])
        steps = encoder_steps(trace, stream)
        if not self.normalise or not steps:
            return torch.zeros(trace.n_targets, dtype=torch.bool, device=like.device)
        return (rollout_row_sums(steps, map_of, like) == 0).any(1)

    def _row(self, trace: AttentionTrace, scores: Matrices, source: str, map_of: MapOf, fixed: bool) -> Tensor:
        k = torch.arange(trace.n_targets, device=trace.tokens.device)
        row = scores[trace.readout, source][k, trace.tokens]
        if not fixed:
            return row
        steps = encoder_steps(trace, source)
        if not self.normalise:
            return row + rollout_increment(row, steps, map_of)
        return normalised_rollout(row, steps, map_of)
