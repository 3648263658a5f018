"""The paper's method: sources kept apart through every attention structure (Eq. 4-10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.control import generator_of
from hetexp.attribution.corrections import CorrectedMaps, known_correction
from hetexp.attribution.maps import Map, PlusIdentity
from hetexp.attribution.propagation import MapOf, Rows, readout_rows, through_encoder, walk_back
from hetexp.attribution.reading import Reading
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace

NOISE_LINKS = ("none", "row", "total", "shuffled")


@dataclass(frozen=True)
class Ours(Reading):
    """Gradient-corrected attention propagated per source.

    Args:
        correction: "pos" (Eq. 1), "full" (Eq. 2) or "abs" (Eq. 3).
        noise_link: "none", "row" or "total" (Eq. 8-10 between encoder and first cross-attention). "shuffled" is a
            control: what the link "row" adds to the relevance of a stream, on the stream's tokens in random order.
        noise_stream: the stream that has the link; "all" stands for each with a homologous part.
        double_identity: reads Eq. 6 to the letter, A + (I + Ā) A for self-attention behind the first mixing, so that
            the identity counts twice there.
        y_unit, row_sum, heads, encoder_weight, encoder_layers: as in `Reading`.
    """

    features: ClassVar[tuple[str, ...]] = ()
    correction: str = "pos"
    noise_link: str = "none"
    noise_stream: str = "all"
    double_identity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        known_correction(self.correction)
        if self.noise_link not in NOISE_LINKS:
            raise ConfigError(f"unknown noise link {self.noise_link!r}: choose one of {', '.join(NOISE_LINKS)}")

    @property
    def corrections(self) -> tuple[str, ...]:
        return (self.correction,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each.

        Raises:
            ConfigError: if the model has no stream of the name `noise_stream`.
        """
        trace = self.cut(trace)
        map_of = self.maps_of(trace, maps, self.correction)

        def in_fusion(step: AttentionStep) -> Map:
            found = map_of(step)
            return PlusIdentity(found) if self.double_identity and step.is_self else found

        rows = walk_back(readout_rows(trace), trace.fusion, in_fusion)
        found = self._encoded(rows, trace, map_of)
        return {s: found[s] for s in trace.source_streams}

    def _encoded(self, rows: Rows, trace: AttentionTrace, map_of: MapOf) -> Rows:
        """Rows at the first fusion step carried back to the inputs, with the link where it is asked for."""
        if self.noise_stream not in ("all", *trace.sizes):
            raise ConfigError(
                f"noise_stream={self.noise_stream!r} does not exist: choose all, or one of {', '.join(trace.sizes)}"
            )
        if self.noise_link == "none":
            return through_encoder(rows, trace, map_of, None)
        linked = through_encoder(rows, trace, map_of, "total" if self.noise_link == "total" else "row")
        if self.noise_link != "shuffled" and self.noise_stream == "all":
            return linked
        plain = through_encoder(rows, trace, map_of, None)
        if self.noise_link == "shuffled":
            linked = {s: plain[s] + _shuffled(linked[s] - plain[s], trace, s) for s in rows}
        return {s: linked[s] if self.noise_stream in ("all", s) else plain[s] for s in rows}


def _shuffled(added: Tensor, trace: AttentionTrace, stream: str) -> Tensor:
    """Rows [k, N], each with its entries in an order of its own; a rerun repeats it."""
    orders = [
        torch.randperm(trace.sizes[stream], generator=generator_of(trace, stream, token))
        for token in trace.tokens.tolist()
    ]
    return added.gather(1, torch.stack(orders).to(added.device)) if orders else added
