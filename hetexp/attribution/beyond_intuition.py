"""Beyond Intuition: attention perception times reasoning feedback (Chen et al., TMLR 2023), its head-wise form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hetexp.attribution.attention import last_step
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import with_features
from hetexp.attribution.items import as_features, numbers_of
from hetexp.attribution.maps import DenseMap, Map, SparseMap, by_query, keys_of, placed
from hetexp.attribution.passes import Pass, changed_features, passed, settled
from hetexp.attribution.propagation import per_sum, readout_rows, through_encoder, walk_back
from hetexp.errors import ConfigError
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionStep, AttentionTrace

FEEDBACK = "feedback"


@dataclass(frozen=True)
class FeedbackPass:
    """E_h[max(mean of G_h[t], 0)] of the last attention to each source, over features scaled from 0 to 1."""

    steps: int

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets; their features "feedback" are these numbers.

        Raises:
            ConfigError: for a model that does not say which modules make its features, or one in which no explained
                token attends a source.
        """
        targets = [settled(trace) for trace in traces]
        totals: list[dict[str, Tensor]] = [{} for _ in traces]
        for scale in np.linspace(0, 1, self.steps):

            def scaled(features: Tensor, number: int, scale: float = float(scale)) -> Tensor:
                return features * scale

            with changed_features(adapter, "beyond_intuition", scaled) as name:
                found = adapter.trace(inputs, targets, features=[name])
            for total, trace in zip(totals, found, strict=True):
                for stream in trace.source_streams:
                    total[stream] = total.get(stream, 0) + _rows(trace, stream) / self.steps
        return [
            with_features(trace, FEEDBACK, {s: as_features(g.clamp(min=0).mean(1)) for s, g in total.items()})
            for trace, total in zip(traces, totals, strict=True)
        ]


def _rows(trace: AttentionTrace, stream: str) -> Tensor:
    """G_h[t] of the last attention to a stream [k, heads, tokens of the stream]."""
    parts = [trace.slice(start, stop) for start, stop in trace.runs(1 if trace.deferred else max(1, trace.n_targets))]
    out = []
    for part in parts:
        step = last_step(part, stream)
        if step.query not in part.readouts or step.query_index is not None or step.key_index is not None:
            raise ConfigError(
                f"beyond_intuition reads the attention from the explained token to {stream!r}, and in this model only "
                f"{step.query!r} attends it: choose another method"
            )
        tokens = part.readouts[step.query]
        rows = step.output_gradient[torch.arange(len(tokens), device=tokens.device), :, tokens]  # [k, heads, d]
        out.append(torch.einsum("khd,hnd->khn", rows, step.values))
    return torch.cat(out)


@dataclass(frozen=True)
class BeyondIntuition:
    """Perception R of every source times its feedback W, token by token.

    Perception propagates sum_h I_h A_h through all attention structures as the paper's own rules do a single stream,
    with the heads' weights I_h in proportion to mean |A_h^T G_h|; it carries over to cross-attention as it is. Feedback
    W is defined on the last self-attention of a CLS token; here it is read from the last attention of the explained
    token to each source. The way from 0 is that of the features, since the input of a model of several sources is not
    one tensor.

    Args:
        steps: points on the way, a forward pass each, and a backward pass per target.
    """

    steps: int = 20
    corrections: ClassVar[tuple[str, ...]] = ("full",)  # its maps take as much memory
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError(f"steps={self.steps} of beyond_intuition must be at least 2: both ends count")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (FeedbackPass(self.steps),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""

        def map_of(step: AttentionStep) -> Map:
            return placed(step, _perceived(step), trace.sizes)

        feedback = numbers_of(passed(trace, self.passes[0]), FEEDBACK)
        rows = through_encoder(walk_back(readout_rows(trace), trace.fusion, map_of), trace, map_of, None)
        return {s: rows[s] * feedback[s] for s in trace.source_streams}


def _perceived(step: AttentionStep) -> Map:
    """sum_h I_h A_h for every target."""
    sizes = step.values.new_zeros(step.output_gradient.shape[:2])  # [k, heads]
    for j, gradients in enumerate(step.output_gradient):
        for head, (gradient, values) in enumerate(zip(gradients, step.values, strict=True)):
            entries = step.probabilities[head]
            if step.indices is None:
                received = entries.T @ gradient
            else:
                parts = (entries[:, :, None] * gradient[:, None]).flatten(0, 1)
                received = torch.zeros_like(values).index_add_(0, step.indices[head].flatten(), parts)
            sizes[j, head] = (received @ values.T).abs().mean()
    shares = per_sum(sizes, sizes.sum(1, keepdim=True))
    if step.indices is None:
        return DenseMap(torch.einsum("kh,hqn->kqn", shares, step.probabilities))
    weighted = shares[:, :, None, None] * step.probabilities
    return SparseMap(by_query(weighted), keys_of(step), step.n_key)
