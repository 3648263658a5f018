"""A control without knowledge: any method worth its name beats it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.models.trace import AttentionTrace


@dataclass(frozen=True)
class Random:
    """Uniform noise. Its seed comes from the item's rounded logits, so that a rerun repeats it."""

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Noise in [0, 1) for every stream with sources, [k, N] each."""
        out = {}
        for source in trace.source_streams:
            rows = [
                torch.rand(trace.sizes[source], generator=generator_of(trace, source, token), dtype=torch.float64)
                for token in trace.tokens.tolist()
            ]
            noise = torch.stack(rows) if rows else torch.zeros(0, trace.sizes[source], dtype=torch.float64)
            out[source] = noise.to(next(trace.steps()).values)
        return out


def generator_of(trace: AttentionTrace, stream: str, token: int) -> torch.Generator:
    """Random numbers for one token's explanation over a stream, seeded by the item's rounded logits."""
    logits = trace.outputs["logits"].double().cpu().numpy().round(2) + 0.0  # no negative zero
    return torch.Generator().manual_seed(zlib.crc32(f"{stream}/{token}".encode(), zlib.crc32(logits.tobytes())))
