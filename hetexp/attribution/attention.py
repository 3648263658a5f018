"""Baselines that read the attention maps themselves: raw attention, rollout, Grad-CAM (keys of GAE's code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.propagation import readout_rows
from hetexp.models.trace import AttentionStep, AttentionTrace


def _last(trace: AttentionTrace, source: str) -> AttentionStep:
    """The last step in which the explained token's stream attends `source`."""
    found = [s for s in trace.steps() if s.query == trace.readout and s.key == source]
    return found[-1]


@dataclass(frozen=True)
class RawAttention:
    """Head mean of the last attention from the explained token to each source."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source for the explained tokens, [k, N] each."""
        return {s: _last(trace, s).probabilities.mean(0)[trace.tokens] for s in trace.sources}


@dataclass(frozen=True)
class Rollout:
    """Each layer's head mean + I, row-normalised and multiplied (Abnar and Zuidema 2020; GAE's bi-modal variant).

    Across streams: R_XX^T C R_YY with C the last cross-attention, R_XX the rollout of the explained stream's
    self-attention before it and R_YY that of the source.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source for the explained tokens, [k, N] each."""
        steps = list(trace.steps())
        start = readout_rows(trace)[trace.readout]
        out = {}
        for source in trace.sources:
            if source == trace.readout:
                out[source] = self._through(start, [s for s in steps if s.is_self and s.query == source])
                continue
            cross = max(i for i, s in enumerate(steps) if s.query == trace.readout and s.key == source)
            own = [s for s in steps[:cross] if s.is_self and s.query == trace.readout]
            theirs = [s for s in steps[:cross] if s.is_self and s.query == source]
            # row t of R_XX^T is column t of R_XX: X's rollout is small, its columns come from unit vectors
            eye = torch.eye(start.shape[1], dtype=start.dtype, device=start.device)
            column = self._through(eye, own)[:, trace.tokens].T
            out[source] = self._through(column @ steps[cross].probabilities.mean(0), theirs)
        return out

    @staticmethod
    def _through(rows: Tensor, steps: list[AttentionStep]) -> Tensor:
        for step in reversed(steps):
            attention = step.probabilities.mean(0)
            scaled = rows / (attention.sum(1) + 1)
            rows = scaled + scaled @ attention
        return rows


@dataclass(frozen=True)
class GradCam:
    """relu(E_h[mean(G_h) A_h]) of the last attention from the explained token to each source."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source for the explained tokens, [k, N] each."""
        out = {}
        for source in trace.sources:
            step = _last(trace, source)
            rows = step.probabilities[:, trace.tokens].transpose(0, 1)  # [k, heads, Nk]
            # mean over all Nq x Nk entries of G_h = g V^T is the product of the two means
            weights = (step.output_gradient.mean(2) * step.values.mean(1)).sum(-1)  # [k, heads]
            out[source] = (weights.unsqueeze(-1) * rows).mean(1).relu()
        return out
