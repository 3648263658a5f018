"""Semantic interpretation from the homologous parts alone (Figure 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps, known_correction
from hetexp.attribution.propagation import encoder_steps, readout_rows, rollout_increment
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class Homologous:
    """What each source's own encoder attends, before any source meets another.

    The stream of the explained token (LXMERT's text) gives that token's row of its encoder's rollout (Eq. 5);
    every other source the total attention each of its tokens receives, the column sums of its rollout.

    Args:
        correction: "abs" in the paper's figure; "pos" or "full".
    """

    features: ClassVar[tuple[str, ...]] = ()
    correction: str = "abs"

    def __post_init__(self) -> None:
        known_correction(self.correction)

    @property
    def corrections(self) -> tuple[str, ...]:
        return (self.correction,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources, [k, N] each."""
        start = readout_rows(trace)
        out = {}
        for source in trace.source_streams:
            rows = start[source] if source in trace.readouts else torch.ones_like(start[source])
            steps = encoder_steps(trace, source)
            out[source] = rows + rollout_increment(rows, steps, lambda step: maps(step, self.correction))
        return out
