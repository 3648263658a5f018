"""GAE: generic attention explainability (Chefer et al., ICCV 2021), as its reference code computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import Map
from hetexp.attribution.propagation import (
    MapOf,
    encoder_steps,
    normalised_rollout,
    per_sum,
    readout_rows,
    rollout_increment,
    rollout_row_sums,
)
from hetexp.attribution.reading import Reading
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace

ZERO_ROWS = ("drop", "identity")

Matrices = dict[tuple[str, str], Tensor]  # R[X, Y] [k, N_X, N_Y]


@dataclass(frozen=True)
class Gae(Reading):
    """R_XX starts at I, R_XY at 0.

    Self-attention on X: R_XX += A R_XX; R_XY += A R_XY. X attends Y: R_XY += N(R_XX)^T A N(R_YY) and
    R_XX += A R_YX, where N(R) = (R - I) / rowsum(R - I) + I (its Eq. 8-11).

    A stream that fusion never updates (DETR's image) enters as one common right factor N(R_YY); it is left out of
    the matrices and applied to the wanted row at the end, so no N x N matrix of it exists.

    A stream that the prediction is read from and that attends nothing but itself (a joint stream, a tower) has only
    the first rule, and its wanted row is found without R_XX.

    Where Y has mixed with a third stream Z before (BLIP: the answer attends the question, which attends the image), its
    context comes along: R_XZ += A R_YZ, as R_XX += A R_YX does for two.

    A zero row of R - I makes N(R) NaN. For encoder-decoder models (no two streams attend each other) the reference sets
    the whole NaN product to 0, so that layer adds nothing; for LXMERT it lets NaN through. A stream that never attends
    itself keeps I.

    Args:
        normalise: False leaves N out.
        outer: False leaves the factor N(R_XX)^T out; without both, what is left is Ours with correction "pos".
        zero_rows: "drop" treats a zero row of R - I as the reference does; "identity" keeps its row of I.
        y_unit, row_sum, heads, encoder_weight, encoder_layers: as in `Reading`.
    """

    normalise: bool = True
    outer: bool = True
    zero_rows: str = "drop"
    corrections: ClassVar[tuple[str, ...]] = ("pos",)
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_rows not in ZERO_ROWS:
            raise ConfigError(f"unknown zero_rows {self.zero_rows!r}: choose one of {', '.join(ZERO_ROWS)}")

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        trace = self.cut(trace)
        map_of = self.maps_of(trace, maps, "pos")
        moved = {step.query for group in trace.fusion for step in group}
        alone = {s for s in trace.readouts if all(step.is_self for step in trace.steps() if step.query == s)}
        fixed = set(trace.sizes) - moved - alone
        scores = self._start(trace, map_of, fixed | alone)
        undefined = {s: self._undefined(trace, s, map_of) for s in fixed}
        mixing = {step.query for step in trace.steps() if step.is_self}
        for group in trace.fusion if scores else ():
            before = dict(scores)
            for step in group:
                if step.is_self:
                    for pair in [p for p in scores if p[0] == step.query]:
                        scores[pair] = scores[pair] + map_of(step).times(before[pair])
                else:
                    self._cross(step, map_of(step), before, scores, trace.has_co_attention, undefined, mixing)
        start = readout_rows(trace)
        return {
            s: start[s] + rollout_increment(start[s], [step for step in trace.steps() if step.query == s], map_of)
            if s in alone
            else self._row(trace, scores, s, map_of, s in fixed)
            for s in trace.source_streams
        }

    def _start(self, trace: AttentionTrace, map_of: MapOf, without: set[str]) -> Matrices:
        like = next(trace.steps()).values
        k = trace.n_targets
        moving = [s for s in trace.sizes if s not in without]
        scores = {}
        for x in moving:
            for y in trace.sizes:
                scores[x, y] = like.new_zeros(k, trace.sizes[x], trace.sizes[y])
            scores[x, x] = scores[x, x] + torch.eye(trace.sizes[x], dtype=like.dtype, device=like.device)
            for step in encoder_steps(trace, x):
                scores[x, x] = scores[x, x] + map_of(step).times(scores[x, x])
        return scores

    def _normalised(self, matrix: Tensor) -> Tensor:
        if not self.normalise:
            return matrix
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        extra = matrix - eye
        sums = extra.sum(-1, keepdim=True)
        return (per_sum(extra, sums) if self.zero_rows == "identity" else extra / sums) + eye

    def _cross(
        self,
        step: AttentionStep,
        attention: Map,
        before: Matrices,
        scores: Matrices,
        co_attention: bool,
        undefined: dict[str, Tensor],
        mixing: set[str],
    ) -> None:
        x, y = step.query, step.key
        own = self._normalised(before[x, x]) if x in mixing else before[x, x]
        added = attention.under(own.transpose(1, 2)) if self.outer else attention.dense()
        if y in undefined:
            added = torch.where(undefined[y][:, None, None], torch.nan, added)
        else:
            added = added @ self._normalised(before[y, y])
            for pair in [p for p in before if p[0] == y and p[1] != y]:
                scores[x, pair[1]] = scores[x, pair[1]] + attention.times(before[pair])
        if not co_attention:
            broken = added.isnan().flatten(1).any(1)  # the product spreads NaN over every row it can reach
            added = torch.where(broken[:, None, None], 0, added)
        scores[x, y] = scores[x, y] + added

    def _undefined(self, trace: AttentionTrace, stream: str, map_of: MapOf) -> Tensor:
        """Targets [k] whose N(R_YY) has a 0 / 0 row. A token that attends nothing by design keeps its row of I."""
        like = next(trace.steps()).values.new_zeros(trace.n_targets, trace.sizes[stream])
        steps = encoder_steps(trace, stream)
        if not self.normalise or self.zero_rows == "identity" or not steps:
            return torch.zeros(trace.n_targets, dtype=torch.bool, device=like.device)
        return ((rollout_row_sums(steps, map_of, like) == 0) & _attending(steps, trace.sizes[stream])).any(1)

    def _row(self, trace: AttentionTrace, scores: Matrices, source: str, map_of: MapOf, fixed: bool) -> Tensor:
        k = torch.arange(trace.n_targets, device=trace.tokens.device)
        reading = {
            s: tokens for s, tokens in trace.readouts.items() if (s, source) in scores
        }  # a tower knows itself only
        row = reduce(torch.add, [scores[stream, source][k, tokens] for stream, tokens in reading.items()])
        if not fixed:
            return row
        steps = encoder_steps(trace, source)
        if not self.normalise:
            return row + rollout_increment(row, steps, map_of)
        return normalised_rollout(row, steps, map_of)


def _attending(steps: Sequence[AttentionStep], n: int) -> Tensor:
    """Which of a stream's tokens are a row of any step [n]."""
    found = torch.zeros(n, dtype=torch.bool, device=steps[0].values.device)
    for step in steps:
        found[slice(None) if step.query_index is None else step.query_index] = True
    return found
