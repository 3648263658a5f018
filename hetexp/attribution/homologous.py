"""Semantic interpretation from the homologous parts alone (Figure 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.propagation import encoder_steps, readout_rows, rollout_increment
from hetexp.models.trace import AttentionTrace


def homologous(trace: AttentionTrace, correction: str = "abs") -> dict[str, Tensor]:
    """What each source's own encoder attends, before any source meets another.

    The stream of the explained token (LXMERT's text) gives that token's row of its encoder's rollout (Eq. 5);
    every other source the total attention each of its tokens receives, the column sums of its rollout.

    Args:
        trace: of k targets.
        correction: "abs" in the paper's figure; "pos" or "full".

    Returns:
        source -> [k, *shape of the source].
    """
    maps = CorrectedMaps((correction,))
    start = readout_rows(trace)
    out = {}
    for source in trace.sources:
        rows = start[source] if source == trace.readout else torch.ones_like(start[source])
        increment = rollout_increment(rows, encoder_steps(trace, source), lambda step: maps(step, correction))
        out[source] = trace.layouts[source].restore(rows + increment)
    return out
