"""Baselines that read the attention maps themselves: raw attention, rollout, Grad-CAM (keys of GAE's code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import attention_rows, head_mean
from hetexp.attribution.propagation import Rows, readout_rows
from hetexp.models.trace import AttentionStep, AttentionTrace


def last_step(trace: AttentionTrace, stream: str) -> AttentionStep:
    """The last step in which a stream that the prediction is read from attends `stream`.

    Where none does (BLIP's answer attends the question, which attends the image), the last in which another does.
    """
    found = [s for s in trace.steps() if s.query in trace.readouts and s.key == stream]
    return (found or [s for s in trace.steps() if s.key == stream and not s.is_self])[-1]


@dataclass(frozen=True)
class RawAttention:
    """Head mean of the last attention from the explained token to each source.

    A source that it does not attend gets what the stream between passes on: that stream's relevance times the head mean
    of its last attention to the source. So it is for rollout and Grad-CAM.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return {stream: self._of(trace, stream) for stream in trace.source_streams}

    def _of(self, trace: AttentionTrace, stream: str) -> Tensor:
        step = last_step(trace, stream)
        if step.query not in trace.readouts:
            return head_mean(step, trace.sizes).apply(self._of(trace, step.query))
        return attention_rows(step, trace.readouts[step.query], trace.sizes).mean(1)


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
        start = readout_rows(trace)
        return {stream: self._of(trace, stream, start) for stream in trace.source_streams}

    def _of(self, trace: AttentionTrace, stream: str, start: Rows) -> Tensor:
        steps = list(trace.steps())
        if stream in trace.readouts:
            own = [s for s in steps if s.is_self and s.query == stream]
            return self._through(start[stream], own, trace)
        step = last_step(trace, stream)
        reader, cross = step.query, next(i for i, s in enumerate(steps) if s is step)
        theirs = [s for s in steps[:cross] if s.is_self and s.query == stream]
        if reader in trace.readouts:
            own = [s for s in steps[:cross] if s.is_self and s.query == reader]
            # row t of R_XX^T is column t of R_XX: X's rollout is small, its columns come from unit vectors
            like = start[reader]
            eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
            rows = self._through(eye, own, trace)[:, trace.readouts[reader]].T
        else:
            rows = self._of(trace, reader, start)
        return self._through(head_mean(step, trace.sizes).apply(rows), theirs, trace)

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
        return {stream: self._of(trace, stream) for stream in trace.source_streams}

    def _of(self, trace: AttentionTrace, stream: str) -> Tensor:
        step = last_step(trace, stream)
        # mean over all Nq x Nk entries of G_h = g V^T is the product of the two means
        weights = (step.output_gradient.mean(2) * step.values.mean(1)).sum(-1)  # [k, heads]
        if step.query in trace.readouts:
            rows = attention_rows(step, trace.readouts[step.query], trace.sizes)  # [k, heads, Nk]
            return (weights.unsqueeze(-1) * rows).mean(1).relu()
        assert step.indices is None, "a stream between prediction and source samples its keys"
        whole = torch.einsum("kh,hqn->kqn", weights / weights.shape[1], step.probabilities).relu()
        return torch.einsum("kq,kqn->kn", self._of(trace, step.query), whole)
