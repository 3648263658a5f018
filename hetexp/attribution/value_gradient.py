"""Gradient x attention x value: what every value vector contributes to the prediction, to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class ValueGradient:
    """sum over steps X -> Y, heads h and rows i of A_h[i, j] (dy/dO_h[i] . V_h[j]), for token j of Y.

    By O_h = A_h V_h this is dy/dV_h[j] . V_h[j], gradient x input of the values of every layer. It is signed.
    """

    corrections: ClassVar[tuple[str, ...]] = ("full",)
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        like = next(trace.steps()).values
        out = {stream: like.new_zeros(trace.n_targets, trace.sizes[stream]) for stream in trace.source_streams}
        for step in trace.steps():
            if step.key in out:
                every_row = like.new_ones(trace.n_targets, trace.sizes[step.query])
                out[step.key] += len(step.values) * maps(step, "full").apply(every_row)
        return out
