"""ODAM: gradient-weighted activation maps of an intermediate feature (Zhao et al., TPAMI 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.errors import InputError
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class Odam:
    """relu(sum_c dy/dF_c * F_c) over the features F that the trace carries."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[bool] = True

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source for the explained tokens, [k, N] each."""
        if not trace.features:
            raise InputError("ODAM reads features, and this trace was taken without them: trace with features=True")
        return {s: (trace.features[s].gradient * trace.features[s].activation).sum(-1).relu() for s in trace.sources}
