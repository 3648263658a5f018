"""Raw attention of every layer, averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.attention import last_step
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import attention_rows, head_mean
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class MeanAttention:
    """Mean over layers and heads of the attention from the explained token to each source.

    For detectors this is the fusion of the decoder's cross-attention over layers on which EIVE builds (Xiang, Li and
    Dai 2026, doi:10.48550/arXiv.2606.01601), with equal weights in the place of its consensus of layers. A source that
    the explained token does not attend gets what the stream between passes on: that stream's relevance times the mean
    over layers and heads of its attention to the source.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return {stream: self._of(trace, stream) for stream in trace.source_streams}

    def _of(self, trace: AttentionTrace, stream: str) -> Tensor:
        reader = last_step(trace, stream).query
        if reader in trace.readouts:
            steps = [step for step in trace.steps() if step.query in trace.readouts and step.key == stream]
            rows = [attention_rows(step, trace.readouts[step.query], trace.sizes).mean(1) for step in steps]
        else:
            passed_on = self._of(trace, reader)
            steps = [step for step in trace.steps() if step.query == reader and step.key == stream]
            rows = [head_mean(step, trace.sizes).apply(passed_on) for step in steps]
        return torch.stack(rows).mean(0)
