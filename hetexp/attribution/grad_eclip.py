"""Grad-ECLIP: gradient x value, weighted with how alike query and key are (Zhao et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hetexp.attribution.attention import last_step
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.propagation import per_sum
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace


@dataclass(frozen=True)
class GradEclip:
    """max(s_j sum_h dy/dO_h[t] . V_h[j], 0) of the last attention from the explained token t to each source.

    The loosened weight s_j is the cosine of t's query and j's key, all heads side by side, brought to 0..1 over the
    keys: it ranks keys as attention does, without softmax's peaks.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each.

        Raises:
            ConfigError: for attention without keys to compare with, or a source that no explained token attends.
        """
        out = {}
        for stream in trace.source_streams:
            step = last_step(trace, stream)
            if step.query not in trace.readouts:
                raise ConfigError(
                    f"grad_eclip reads the attention from the explained token to {stream!r}, and in this model only "
                    f"{step.query!r} attends it: choose another method"
                )
            if step.queries is None or step.keys is None:
                raise ConfigError(
                    f"grad_eclip compares queries with keys, and the attention {step.name} has none (it samples its "
                    "keys): choose another method"
                )
            out[stream] = _of(step, trace.readouts[step.query])
        return out


def _of(step: AttentionStep, tokens: Tensor) -> Tensor:
    """[k, Nk] for the rows of the explained tokens [k]."""
    assert step.queries is not None
    assert step.keys is not None
    queries, keys = (x.transpose(0, 1).flatten(1) for x in (step.queries[:, tokens], step.keys))
    alike = cosine_similarity(queries[:, None], keys[None], dim=-1)  # [k, Nk]
    low, high = alike.amin(1, keepdim=True), alike.amax(1, keepdim=True)
    rows = step.output_gradient[torch.arange(len(tokens), device=tokens.device), :, tokens]  # [k, heads, d]
    return (per_sum(alike - low, high - low) * torch.einsum("khd,hnd->kn", rows, step.values)).relu()
