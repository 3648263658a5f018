"""Attention maps as linear operators: dense, sparse, or placed among a stream's other tokens.

Propagation asks a map for few things: rows times the map, the map times columns, its row sums. So a map need not be a
matrix. That of deformable attention holds the sampled entries alone, and no Nq x Nk tensor of it is ever formed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetexp.models.gradients import block_bytes
from hetexp.models.trace import AttentionStep


class Map(ABC):
    """A map A [k, Nq, Nk], one matrix per target, or one [Nq, Nk] for all of them."""

    @abstractmethod
    def apply(self, rows: Tensor) -> Tensor:
        """Row vectors times A: [k, Nq] -> [k, Nk]."""

    @abstractmethod
    def under(self, matrix: Tensor) -> Tensor:
        """A matrix times A: [k, M, Nq] -> [k, M, Nk]."""

    @abstractmethod
    def times(self, matrix: Tensor) -> Tensor:
        """A times a matrix: [k, Nk, M] -> [k, Nq, M]."""

    @abstractmethod
    def row_sums(self) -> Tensor:
        """A 1: [k, Nq], or [1, Nq] of one matrix for all targets."""

    @abstractmethod
    def scaled(self, factors: Tensor) -> Map:
        """The map with every row times a factor of its own, [k, Nq] or what broadcasts to it."""

    @abstractmethod
    def change(self, function: Callable[[Tensor], Tensor]) -> Map:
        """The map with a function of every entry; it must give 0 for 0, and A itself stays as it is."""

    @abstractmethod
    def dense(self) -> Tensor:
        """All of it [k, Nq, Nk] (or [1, Nq, Nk]), for maps that are known to be small."""


@dataclass(frozen=True)
class DenseMap(Map):
    """A map held as a tensor [k, Nq, Nk], or [Nq, Nk] for all targets."""

    tensor: Tensor

    def apply(self, rows: Tensor) -> Tensor:
        if self.tensor.ndim == 2:
            return rows @ self.tensor
        return torch.bmm(rows.unsqueeze(1), self.tensor).squeeze(1)

    def under(self, matrix: Tensor) -> Tensor:
        return matrix @ self.tensor

    def times(self, matrix: Tensor) -> Tensor:
        return self.tensor @ matrix

    def row_sums(self) -> Tensor:
        sums = self.tensor.sum(-1)
        return sums if self.tensor.ndim == 3 else sums[None]

    def scaled(self, factors: Tensor) -> Map:
        return DenseMap(self.dense() * factors[..., None])

    def change(self, function: Callable[[Tensor], Tensor]) -> Map:
        return DenseMap(function(self.tensor))

    def dense(self) -> Tensor:
        return self.tensor if self.tensor.ndim == 3 else self.tensor[None]


@dataclass(frozen=True)
class SparseMap(Map):
    """A map held as its entries; those that name the same key add up.

    Attributes:
        entries: [k, Nq, E], or [1, Nq, E] for all targets.
        keys: column of each entry [Nq, E].
        n_key: columns.
    """

    entries: Tensor
    keys: Tensor
    n_key: int

    def _of(self, target: int) -> Tensor:
        return self.entries[target if len(self.entries) > 1 else 0]

    def apply(self, rows: Tensor) -> Tensor:
        out = rows.new_zeros(len(rows), self.n_key)
        for j, row in enumerate(rows):
            out[j].index_add_(0, self.keys.flatten(), (row[:, None] * self._of(j)).flatten())
        return out

    def under(self, matrix: Tensor) -> Tensor:
        out = matrix.new_zeros(*matrix.shape[:2], self.n_key)
        for j, one in enumerate(matrix):
            for rows, block in self._blocks(j):
                out[j].addmm_(one[:, rows], block)
        return out

    def times(self, matrix: Tensor) -> Tensor:
        n_query = len(self.keys)
        out = matrix.new_empty(len(matrix), n_query, matrix.shape[2])
        for j, one in enumerate(matrix):
            if one.shape[1] == 1:  # a gather is all that is needed
                out[j, :, 0] = (self._of(j) * one[:, 0][self.keys]).sum(1)
                continue
            for rows, block in self._blocks(j):
                torch.mm(block, one, out=out[j, rows])
        return out

    def row_sums(self) -> Tensor:
        return self.entries.sum(-1)

    def scaled(self, factors: Tensor) -> Map:
        return replace(self, entries=self.entries * factors[..., None])

    def change(self, function: Callable[[Tensor], Tensor]) -> Map:
        row = torch.arange(len(self.keys), device=self.keys.device)[:, None] * self.n_key
        places, inverse = (row + self.keys).flatten().unique(return_inverse=True)  # ascending, so by rows
        entries = self.entries.new_zeros(len(self.entries), len(places)).index_add_(1, inverse, self.entries.flatten(1))
        counts = torch.bincount(places // self.n_key, minlength=len(self.keys))
        start = counts.cumsum(0) - counts
        width = int(counts.max())
        column = torch.arange(width, device=counts.device)
        filled = column < counts[:, None]
        at = (start[:, None] + column).clamp(max=len(places) - 1)
        return SparseMap(
            torch.where(filled, function(entries)[:, at], 0), (places % self.n_key)[at] * filled, self.n_key
        )

    def dense(self) -> Tensor:
        return torch.stack([torch.cat([block for _, block in self._blocks(j)]) for j in range(len(self.entries))])

    def _blocks(self, target: int) -> Iterator[tuple[slice, Tensor]]:
        """Dense blocks of rows [b, Nk] of one target's matrix."""
        entries = self._of(target)
        size = max(1, block_bytes(entries.device) // (self.n_key * entries.element_size()))
        for start in range(0, len(entries), size):
            rows = slice(start, start + size)
            yield (
                rows,
                entries.new_zeros(len(entries[rows]), self.n_key).scatter_add_(1, self.keys[rows], entries[rows]),
            )


@dataclass(frozen=True)
class PlacedMap(Map):
    """A map of some tokens of its streams; the others attend nothing and are not attended.

    Attributes:
        inner: the map of the tokens meant.
        query_index: their rows [Nq'].
        key_index: their columns [Nk'].
        n_query: tokens of the stream of rows.
        n_key: tokens of the stream of columns.
    """

    inner: Map
    query_index: Tensor
    key_index: Tensor
    n_query: int
    n_key: int

    def apply(self, rows: Tensor) -> Tensor:
        out = rows.new_zeros(len(rows), self.n_key)
        out[:, self.key_index] = self.inner.apply(rows[:, self.query_index])
        return out

    def under(self, matrix: Tensor) -> Tensor:
        out = matrix.new_zeros(*matrix.shape[:2], self.n_key)
        out[..., self.key_index] = self.inner.under(matrix[..., self.query_index])
        return out

    def times(self, matrix: Tensor) -> Tensor:
        out = matrix.new_zeros(len(matrix), self.n_query, matrix.shape[2])
        out[:, self.query_index] = self.inner.times(matrix[:, self.key_index])
        return out

    def row_sums(self) -> Tensor:
        sums = self.inner.row_sums()
        out = sums.new_zeros(len(sums), self.n_query)
        out[:, self.query_index] = sums
        return out

    def scaled(self, factors: Tensor) -> Map:
        inner = factors if factors.shape[-1] == 1 else factors[..., self.query_index]
        return replace(self, inner=self.inner.scaled(inner))

    def change(self, function: Callable[[Tensor], Tensor]) -> Map:
        return replace(self, inner=self.inner.change(function))

    def dense(self) -> Tensor:
        inner = self.inner.dense()
        out = inner.new_zeros(len(inner), self.n_query, self.n_key)
        out[:, self.query_index[:, None], self.key_index] = inner
        return out


@dataclass(frozen=True)
class PlusIdentity(Map):
    """A square map with the identity added, I + A."""

    inner: Map

    def apply(self, rows: Tensor) -> Tensor:
        return rows + self.inner.apply(rows)

    def under(self, matrix: Tensor) -> Tensor:
        return matrix + self.inner.under(matrix)

    def times(self, matrix: Tensor) -> Tensor:
        return matrix + self.inner.times(matrix)

    def row_sums(self) -> Tensor:
        return 1 + self.inner.row_sums()

    def scaled(self, factors: Tensor) -> Map:
        return DenseMap(self.dense()).scaled(factors)

    def change(self, function: Callable[[Tensor], Tensor]) -> Map:
        return DenseMap(function(self.dense()))

    def dense(self) -> Tensor:
        inner = self.inner.dense()
        return inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)


def placed(step: AttentionStep, inner: Map, sizes: Mapping[str, int]) -> Map:
    """A step's map between its whole streams, whose `sizes` are tokens of each."""
    if step.query_index is None and step.key_index is None:
        return inner

    def index(tokens: Tensor | None, n: int) -> Tensor:
        return torch.arange(n, device=step.values.device) if tokens is None else tokens

    n_query, n_key = sizes[step.query], sizes[step.key]
    return PlacedMap(inner, index(step.query_index, n_query), index(step.key_index, n_key), n_query, n_key)


def head_mean(step: AttentionStep, sizes: Mapping[str, int]) -> Map:
    """The head mean of a step's attention, one matrix for all targets."""
    if step.indices is None:
        return placed(step, DenseMap(step.probabilities.mean(0)), sizes)
    return placed(
        step, SparseMap(by_query(step.probabilities / len(step.probabilities))[None], keys_of(step), step.n_key), sizes
    )


def attention_rows(step: AttentionStep, tokens: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """Attention of some tokens of the query's stream in every head [k, heads, tokens of the key's stream]."""
    if step.query_index is not None:  # where each token of the stream stands among the rows
        place = torch.full((sizes[step.query],), -1, device=tokens.device)
        place[step.query_index] = torch.arange(step.n_query, device=tokens.device)
        rows, there = place[tokens].clamp(min=0), place[tokens] >= 0
    else:
        rows, there = tokens, torch.ones_like(tokens, dtype=torch.bool)
    found = step.probabilities[:, rows].transpose(0, 1)
    if step.indices is not None:
        keys = step.indices[:, rows].transpose(0, 1)
        found = found.new_zeros(*found.shape[:2], step.n_key).scatter_add_(2, keys, found)
    if step.query_index is not None:
        found = found * there[:, None, None]
    if step.key_index is None:
        return found
    out = found.new_zeros(*found.shape[:2], sizes[step.key])
    out[..., step.key_index] = found
    return out


def by_query(entries: Tensor) -> Tensor:
    """Entries per head [..., heads, Nq, C] in the order of queries [..., Nq, heads * C]."""
    return entries.transpose(-3, -2).flatten(-2)


def keys_of(step: AttentionStep) -> Tensor:
    """Keys of a sparse step's entries in the order of queries [Nq, heads * C]."""
    assert step.indices is not None
    return by_query(step.indices)
