"""Gradient correction of attention maps (paper Eq. 1-3)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, block_bytes

CORRECTIONS = ("pos", "full", "abs")


def known_correction(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: if it is not one of `CORRECTIONS`.
    """
    if name not in CORRECTIONS:
        raise ConfigError(f"unknown correction {name!r}: choose one of {', '.join(CORRECTIONS)}")
    return name


def corrected_maps(step: AttentionStep, corrections: Collection[str]) -> dict[str, Tensor]:
    """Head-averaged corrected attention of one step, for several corrections at once.

    pos is E_h[max(G_h, 0) * A_h] (Eq. 1), full E_h[G_h * A_h] (Eq. 2, signed), abs E_h[|G_h| * A_h] (Eq. 3).
    The gradient of an attention map is never asked of autograd: with O_h = A_h V_h it is
    G_h = (dy/dO_h) V_h^T. It is formed block by block, so no [targets, heads, Nq, Nk] tensor exists.

    Returns:
        per correction a map [targets, Nq, Nk].
    """
    for name in corrections:
        known_correction(name)
    targets, heads, n_query, width = step.output_gradient.shape
    n_key = step.values.shape[1]
    sums = {c: step.values.new_zeros(targets, n_query, n_key) for c in corrections}
    size = max(1, n_query * n_key * step.values.element_size())
    fit = max(1, block_bytes(step.values.device) // size)  # maps of one head and target in a block
    many, together = max(1, fit // heads), min(fit, heads)
    spare = step.values.new_empty(min(len(sums), 2), together * min(many, targets) * n_query * n_key)
    for start in range(0, targets, many):
        output_gradients = step.output_gradient[start : start + many].transpose(0, 1)
        n = output_gradients.shape[1]
        output_gradients = output_gradients.reshape(heads, n * n_query, width)
        for first in range(0, heads, together):
            group = slice(first, min(first + together, heads))
            maps = step.probabilities[group, None]
            shape = (len(maps), n, n_query, n_key)
            buffers = spare[:, : len(maps) * n * n_query * n_key].view(-1, *shape)
            gradient = buffers[0]
            torch.bmm(output_gradients[group], step.values[group].transpose(1, 2), out=gradient.flatten(1, 2))
            for i, (correction, total) in enumerate(sums.items()):
                factor = gradient if i + 1 == len(sums) else buffers[1]  # the last may overwrite it
                if correction == "pos":
                    torch.clamp_min(gradient, 0, out=factor)
                elif correction == "abs":
                    torch.abs(gradient, out=factor)
                changed = gradient if correction == "full" else factor
                here = total[start : start + n]
                if together == heads:
                    torch.mean(torch.mul(changed, maps, out=factor), 0, out=here)
                    continue
                for one, attention in zip(changed, maps, strict=True):
                    here.addcmul_(one, attention, value=1 / heads)
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
