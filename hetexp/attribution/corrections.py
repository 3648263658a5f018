"""Gradient correction of attention maps (paper Eq. 1-3)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from hetexp.attribution.maps import DenseMap, Map, SparseMap, keys_of, placed
from hetexp.errors import ConfigError
from hetexp.models.gradients import block_bytes
from hetexp.models.trace import AttentionStep

CORRECTIONS = ("pos", "full", "abs")


def known_correction(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: if it is not one of `CORRECTIONS`.
    """
    if name not in CORRECTIONS:
        raise ConfigError(f"unknown correction {name!r}: choose one of {', '.join(CORRECTIONS)}")
    return name


def corrected_maps(step: AttentionStep, corrections: Collection[str]) -> dict[str, Map]:
    """Head-averaged corrected attention of one step, for several corrections at once.

    pos is E_h[max(G_h, 0) * A_h] (Eq. 1), full E_h[G_h * A_h] (Eq. 2, signed), abs E_h[|G_h| * A_h] (Eq. 3).
    The gradient of an attention map is never asked of autograd: with O_h = A_h V_h it is
    G_h = (dy/dO_h) V_h^T. It is formed block by block, so no [targets, heads, Nq, Nk] tensor exists.
    The gradient belongs to a key, not to an entry: where entries of a sparse map name the same key, correcting each
    and adding them up is correcting their sum.

    Returns:
        per correction a map of the step's tokens, a matrix for every target.
    """
    for name in corrections:
        known_correction(name)
    if step.indices is None:
        return {name: DenseMap(tensor) for name, tensor in _dense(step, corrections).items()}
    keys = keys_of(step)
    return {name: SparseMap(entries, keys, step.n_key) for name, entries in _sparse(step, corrections).items()}


def _correct(gradient: Tensor, correction: str, out: Tensor) -> Tensor:
    """The gradient as a correction takes it; written to `out` where that changes it."""
    if correction == "pos":
        return torch.clamp_min(gradient, 0, out=out)
    if correction == "abs":
        return torch.abs(gradient, out=out)
    return gradient


def _dense(step: AttentionStep, corrections: Collection[str]) -> dict[str, Tensor]:
    """Per correction [targets, Nq, Nk]."""
    targets, heads, n_query, width = step.output_gradient.shape
    n_key = step.n_key
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
                changed = _correct(gradient, correction, factor)
                here = total[start : start + n]
                if together == heads:
                    torch.mean(torch.mul(changed, maps, out=factor), 0, out=here)
                    continue
                for one, attention in zip(changed, maps, strict=True):
                    here.addcmul_(one, attention, value=1 / heads)
    return sums


def _sparse(step: AttentionStep, corrections: Collection[str]) -> dict[str, Tensor]:
    """Per correction the entries [targets, Nq, heads * C]."""
    assert step.indices is not None
    targets, heads, n_query, _ = step.output_gradient.shape
    entries = step.indices.shape[2]
    out = {c: step.values.new_empty(targets, n_query, heads, entries) for c in corrections}
    for head, rows in _blocks_of_rows(step):
        keys = step.indices[head, rows]  # [b, C]
        values = step.values[head].index_select(0, keys.flatten()).view(*keys.shape, -1)  # once for all targets
        gradient = torch.bmm(values, step.output_gradient[:, head, rows].permute(1, 2, 0)).permute(2, 0, 1)  # [k, b, C]
        weights = step.probabilities[head, rows] / heads
        spare = torch.empty_like(gradient)
        for correction, total in out.items():
            torch.mul(_correct(gradient, correction, spare), weights, out=total[:, rows, head])
    return {c: total.flatten(2) for c, total in out.items()}


def _blocks_of_rows(step: AttentionStep) -> Iterator[tuple[int, slice]]:
    """(head, rows) of a sparse step such that the values which a block gathers stay in the cache."""
    assert step.indices is not None
    width = step.values.shape[2] * step.indices.shape[2] * step.values.element_size()
    size = max(1, block_bytes(step.values.device) // width)
    for head in range(step.indices.shape[0]):
        for start in range(0, step.n_query, size):
            yield head, slice(start, start + size)


class CorrectedMaps:
    """Corrected maps of a trace, each computed once and shared by every method that asks.

    Args:
        corrections: those that will be asked for; they are computed together, since they share the gradient.
        sizes: tokens of each stream, needed where a step concerns a part of one.
    """

    def __init__(self, corrections: Collection[str], sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self._corrections = tuple(corrections)
        self._maps: dict[str, dict[str, Map]] = {}

    def __call__(self, step: AttentionStep, correction: str) -> Map:
        """Corrected map of a step between its whole streams."""
        if correction not in self._corrections:
            raise ConfigError(f"correction {correction!r} was not announced: these maps hold {self._corrections}")
        if step.name not in self._maps:
            found = corrected_maps(step, self._corrections)
            self._maps[step.name] = {name: placed(step, one, self.sizes) for name, one in found.items()}
        return self._maps[step.name][correction]
