"""Sequences of several lengths as the rows of one matrix, one behind the other: no padding is ever computed.

What acts on every token alone (projections, feed-forward layers, norms) runs over all rows at once. Attention runs over
neighbours of equal lengths together, so sequences are best put in the order of their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

Block = tuple[int, int, int]  # neighbours of equal lengths: how many, queries of each, keys of each


def blocks(n_queries: Sequence[int], n_keys: Sequence[int]) -> list[Block]:
    """Neighbours of equal lengths, from the lengths of all sequences."""
    pairs = groupby(zip(n_queries, n_keys, strict=True))
    return [(sum(1 for _ in members), *lengths) for lengths, members in pairs]


def pack_distinct(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Packed parts [n, d], an object that recurs only once.

    Returns:
        rows of the distinct objects [M, d], and for every row of all parts, packed, which of those it is [N].
    """
    starts: dict[int, int] = {}
    found: list[Tensor] = []
    lengths, shifts, before, total = [len(part) for part in parts], [], 0, 0
    for part, length in zip(parts, lengths, strict=True):
        if id(part) not in starts:
            starts[id(part)] = total
            found.append(part)
            total += length
        shifts.append(starts[id(part)] - before)
        before += length
    rows = torch.arange(before) + torch.repeat_interleave(torch.tensor(shifts), torch.tensor(lengths))
    return torch.cat(found), rows.to(found[0].device)


def by_length(*lengths: Sequence[int]) -> list[int]:
    """The order of items by their lengths, those given first foremost."""
    return sorted(range(len(lengths[0])), key=lambda item: [of[item] for of in lengths])


def inverse(order: Sequence[int]) -> list[int]:
    """Where each item went that was put in an order."""
    return sorted(range(len(order)), key=order.__getitem__)


def projected(layers: Sequence[nn.Linear], hidden: Tensor) -> Tensor:
    """Outputs of several layers for the same rows [..., N, d], side by side, by one product [..., N, layers * d]."""
    biases: list[Tensor] = [x.bias for x in layers if x.bias is not None]  # all of one attention have them, or none
    return linear(hidden, torch.cat([x.weight for x in layers]), torch.cat(biases) if biases else None)


def attended(query: Tensor, key: Tensor, value: Tensor, among: Sequence[Block], heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(width of a head)) V, each sequence of queries over its own sequence of keys.

    Args:
        query: [sum of queries, d].
        key: [sum of keys, d].
        value: [sum of keys, d].
        among: which rows belong together.
        heads: attention heads, each d / heads wide.

    Returns:
        [sum of queries, d]; 0 where a sequence has no key: attention over nothing returns nothing.
    """
    counts = [(n * queries, n * keys) for n, queries, keys in among]
    parts = zip(
        query.split([q for q, _ in counts]), *(x.split([k for _, k in counts]) for x in (key, value)), strict=True
    )
    found = []
    for (n, n_queries, n_keys), (q, k, v) in zip(among, parts, strict=True):
        if n_queries * n_keys == 0:
            found.append(torch.zeros_like(q))
            continue
        q, k, v = (x.unflatten(0, (n, -1)).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        found.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(found)


def packed_attention(
    module: Any, among: Sequence[Block], hidden: Tensor, *args: Any, source: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor]:
    """The forward pass of an attention module with `query`, `key`, `value` and `num_attention_heads` on packed rows.

    Args:
        module: the attention module.
        among: which rows belong together.
        hidden: what asks [1, N, d].
        source: what is asked [1, M, d]; by default the same.
    """
    if source is None:
        query, key, value = projected((module.query, module.key, module.value), hidden[0]).chunk(3, -1)
    else:
        query, (key, value) = module.query(hidden[0]), projected((module.key, module.value), source[0]).chunk(2, -1)
    return (attended(query, key, value, among, module.num_attention_heads)[None],)
