"""A method with a parameter of its own: the paper's propagation over sharpened attention maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp import MethodRecord, register_method
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import Map
from hetexp.attribution.propagation import readout_rows, through_encoder, walk_back
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace


@dataclass(frozen=True)
class Sharpened:
    """Eq. 4-7 with every corrected map (Eq. 1) raised to a power; power 1 is `ours_pos`.

    Args:
        power: exponent, larger than 0.
    """

    power: float = 1.0
    corrections: ClassVar[tuple[str, ...]] = ("pos",)
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ConfigError(f"power={self.power} must be larger than 0")

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""

        def map_of(step: AttentionStep) -> Map:
            return maps(step, "pos").change(lambda a: a**self.power)  # a new map: other methods read this one

        rows = walk_back(readout_rows(trace), trace.fusion, map_of)
        rows = through_encoder(rows, trace, map_of, noise_link=None)
        return {stream: rows[stream] for stream in trace.source_streams}


register_method(MethodRecord("my_method", "Sharpened", f"{__name__}:Sharpened", "this page"))
