"""Gradient correction of attention maps (paper Eq. 1-3)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep

CORRECTIONS = ("pos", "full", "abs")


def corrected_maps(step: AttentionStep, corrections: Collection[str]) -> dict[str, Tensor]:
    """Head-averaged corrected attention of one step, for several corrections at once.

    pos is E_h[max(G_h, 0) * A_h] (Eq. 1), full E_h[G_h * A_h] (Eq. 2, signed), abs E_h[|G_h| * A_h] (Eq. 3).
    The gradient of an attention map is never asked of autograd: with O_h = A_h V_h it is
    G_h = (dy/dO_h) V_h^T. Heads are summed one after the other, so no [heads, Nq, Nk] tensor exists per target.

    Returns:
        per correction a map [targets, Nq, Nk].
    """
    unknown = set(corrections) - set(CORRECTIONS)
    if unknown:
        raise ConfigError(f"unknown correction {sorted(unknown)}: choose among {', '.join(CORRECTIONS)}")
    targets, heads, n_query, _ = step.output_gradient.shape
    n_key = step.values.shape[1]
    sums = {c: step.values.new_zeros(targets, n_query, n_key) for c in corrections}
    for j in range(targets):  # one [Nq, Nk] gradient at a time stays in the processor's cache
        for h in range(heads):
            gradient = step.output_gradient[j, h] @ step.values[h].T
            attention = step.probabilities[h]
            for c, total in sums.items():
                factor = gradient.relu() if c == "pos" else gradient.abs() if c == "abs" else gradient
                total[j].addcmul_(factor, attention, value=1 / heads)
    return sums


class CorrectedMaps:
    """Corrected maps of a trace, each computed once and shared by every method that asks.

    Args:
        corrections: those that will be asked for; they are computed together, since they share the gradient.
    """

    def __init__(self, corrections: Collection[str]) -> None:
        self._corrections = tuple(corrections)
        self._maps: dict[str, dict[str, Tensor]] = {}

    def __call__(self, step: AttentionStep, correction: str) -> Tensor:
        """Corrected map of a step [targets, Nq, Nk]."""
        if correction not in self._corrections:
            raise ConfigError(f"correction {correction!r} was not announced: these maps hold {self._corrections}")
        if step.name not in self._maps:
            self._maps[step.name] = corrected_maps(step, self._corrections)
        return self._maps[step.name][correction]


def apply(rows: Tensor, maps: Tensor) -> Tensor:
    """Row vectors times maps: [k, Nq] x [k, Nq, Nk] -> [k, Nk]."""
    return torch.bmm(rows.unsqueeze(1), maps).squeeze(1)
