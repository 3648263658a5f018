"""Baselines that read the attention maps themselves: raw attention, rollout, Grad-CAM (keys of GAE's code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import attention_rows, head_mean
from hetexp.attribution.propagation import readout_rows
from hetexp.models.trace import AttentionStep, AttentionTrace


def _last(trace: AttentionTrace, stream: str) -> AttentionStep:
    """The last step in which a stream that the prediction is read from attends `stream`."""
    found = [s for s in trace.steps() if s.query in trace.readouts and s.key == stream]
    return found[-1]


@dataclass(frozen=True)
class RawAttention:
    """Head mean of the last attention from the explained token to each source."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        out = {}
        for stream in trace.source_streams:
            step = _last(trace, stream)
            out[stream] = attention_rows(step, trace.readouts[step.query], trace.sizes).mean(1)
        return out


@dataclass(frozen=True)
class Rollout:
    """Each layer's head mean + I, row-normalised and multiplied (Abnar and Zuidema 2020; GAE's bi-modal variant).

    Across streams: R_XX^T C R_YY with C the last cross-attention, R_XX the rollout of the explained stream's
    self-attention before it and R_YY that of the source.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        steps = list(trace.steps())
        start = readout_rows(trace)
        out = {}
        for stream in trace.source_streams:
            if stream in trace.readouts:
                own = [s for s in steps if s.is_self and s.query == stream]
                out[stream] = self._through(start[stream], own, trace)
                continue
            cross = max(i for i, s in enumerate(steps) if s.query in trace.readouts and s.key == stream)
            reader = steps[cross].query
            own = [s for s in steps[:cross] if s.is_self and s.query == reader]
            theirs = [s for s in steps[:cross] if s.is_self and s.query == stream]
            # row t of R_XX^T is column t of R_XX: X's rollout is small, its columns come from unit vectors
            like = start[reader]
            eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
            column = self._through(eye, own, trace)[:, trace.readouts[reader]].T
            out[stream] = self._through(head_mean(steps[cross], trace.sizes).apply(column), theirs, trace)
        return out

    @staticmethod
    def _through(rows: Tensor, steps: Sequence[AttentionStep], trace: AttentionTrace) -> Tensor:
        for step in reversed(steps):
            attention = head_mean(step, trace.sizes)
            scaled = rows / (attention.row_sums()[0] + 1)
            rows = scaled + attention.apply(scaled)
        return rows


@dataclass(frozen=True)
class GradCam:
    """relu(E_h[mean(G_h) A_h]) of the last attention from the explained token to each source."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        out = {}
        for stream in trace.source_streams:
            step = _last(trace, stream)
            rows = attention_rows(step, trace.readouts[step.query], trace.sizes)  # [k, heads, Nk]
            # mean over all Nq x Nk entries of G_h = g V^T is the product of the two means
            weights = (step.output_gradient.mean(2) * step.values.mean(1)).sum(-1)  # [k, heads]
            out[stream] = (weights.unsqueeze(-1) * rows).mean(1).relu()
        return out
