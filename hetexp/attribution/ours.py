"""The paper's method: sources kept apart through every attention structure (Eq. 4-10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps, known_correction
from hetexp.attribution.maps import Map
from hetexp.attribution.propagation import readout_rows, through_encoder, walk_back
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace

NOISE_LINKS = ("none", "row", "total")


@dataclass(frozen=True)
class Ours:
    """Gradient-corrected attention propagated per source.

    Args:
        correction: "pos" (Eq. 1), "full" (Eq. 2) or "abs" (Eq. 3).
        noise_link: "none", "row" or "total" (Eq. 8-10 between encoder and first cross-attention).
    """

    features: ClassVar[tuple[str, ...]] = ()
    correction: str = "pos"
    noise_link: str = "none"

    def __post_init__(self) -> None:
        known_correction(self.correction)
        if self.noise_link not in NOISE_LINKS:
            raise ConfigError(f"unknown noise link {self.noise_link!r}: choose one of {', '.join(NOISE_LINKS)}")

    @property
    def corrections(self) -> tuple[str, ...]:
        return (self.correction,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""

        def map_of(step: AttentionStep) -> Map:
            return maps(step, self.correction)

        rows = walk_back(readout_rows(trace), trace.fusion, map_of)
        link = None if self.noise_link == "none" else self.noise_link
        rows = through_encoder(rows, trace, map_of, link)
        return {s: rows[s] for s in trace.source_streams}
