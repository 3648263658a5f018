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
        logits = trace.outputs["logits"].double().cpu().numpy().round(2) + 0.0  # no negative zero
        out = {}
        for source in trace.source_streams:
            rows = []
            for token in trace.tokens.tolist():
                seed = zlib.crc32(f"{source}/{token}".encode(), zlib.crc32(logits.tobytes()))
                generator = torch.Generator().manual_seed(seed)
                rows.append(torch.rand(trace.sizes[source], generator=generator, dtype=torch.float64))
            noise = torch.stack(rows) if rows else torch.zeros(0, trace.sizes[source], dtype=torch.float64)
            out[source] = noise.to(next(trace.steps()).values)
        return out
