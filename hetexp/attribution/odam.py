"""ODAM: gradient-weighted activation maps of an intermediate feature (Zhao et al., TPAMI 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import contributions
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class Odam:
    """relu(sum_c dy/dF_c * F_c) over features F of the model.

    Args:
        feature: which features, one of the model's `feature_names`; "default" is the first of them.
    """

    feature: str = "default"
    corrections: ClassVar[tuple[str, ...]] = ()

    @property
    def features(self) -> tuple[str, ...]:
        return (self.feature,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return {s: r.relu() for s, r in contributions(trace, self.feature, "ODAM").items()}
