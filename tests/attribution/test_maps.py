"""Maps as operators: sparse and placed ones against the matrices that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hetexp.attribution import maps
from hetexp.attribution.maps import DenseMap, Map, PlacedMap, SparseMap, attention_rows, head_mean, placed
from hetexp.models.trace import AttentionStep

TARGETS, QUERIES, KEYS, ENTRIES = 3, 7, 5, 9  # more entries than keys: every row names some key twice


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keys(*shape: int, below: int = KEYS) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(1))


def scattered(entries: Tensor, where: Tensor, n_key: int) -> Tensor:
    """The matrix [..., Nq, Nk] of entries [..., Nq, E], one by one."""
    out = torch.zeros(*entries.shape[:-1], n_key, dtype=entries.dtype)
    for e in range(entries.shape[-1]):
        for q in range(entries.shape[-2]):
            out[..., q, where[q, e]] += entries[..., q, e]
    return out


def sparse(targets: int) -> tuple[Map, Tensor]:
    entries, where = random(targets, QUERIES, ENTRIES), keys(QUERIES, ENTRIES)
    return SparseMap(entries, where, KEYS), scattered(entries, where, KEYS)


def placed_among(inner: Map, matrix: Tensor) -> tuple[Map, Tensor]:
    rows, columns = torch.tensor([1, 2, 4, 5, 6, 8, 9]), torch.tensor([0, 3, 4, 6, 7])
    out = torch.zeros(len(matrix), 11, 8, dtype=matrix.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[:, row, column] = matrix[:, i, j]
    return PlacedMap(inner, rows, columns, 11, 8), out


def dense(targets: int) -> tuple[Map, Tensor]:
    matrix = random(targets, QUERIES, KEYS)
    return DenseMap(matrix), matrix


def one_dense(targets: int) -> tuple[Map, Tensor]:
    matrix = random(QUERIES, KEYS)
    return DenseMap(matrix), matrix[None]


KINDS: dict[str, Callable[[], tuple[Map, Tensor]]] = {
    "dense": lambda: dense(TARGETS),
    "dense, one for all": lambda: one_dense(1),
    "sparse": lambda: sparse(TARGETS),
    "sparse, one for all": lambda: sparse(1),
    "placed dense": lambda: placed_among(*dense(TARGETS)),
    "placed sparse": lambda: placed_among(*sparse(TARGETS)),
    "placed sparse, one for all": lambda: placed_among(*sparse(1)),
}


def close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and torch.allclose(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("block", [1, 100, 2**20], ids=["row by row", "some rows", "at once"])
@pytest.mark.parametrize("kind", KINDS)
def test_operations_equal_the_matrix(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "block_bytes", lambda device: block)
    found, matrix = KINDS[kind]()
    n_query, n_key = matrix.shape[1:]
    rows, below = random(TARGETS, n_query, seed=2), random(TARGETS, 4, n_query, seed=3)
    assert close(found.apply(rows), torch.einsum("kq,kqn->kn", rows, matrix.expand(TARGETS, -1, -1)))
    assert close(found.under(below), below @ matrix)
    for width in (1, 4):
        beside = random(TARGETS, n_key, width, seed=4)
        assert close(found.times(beside), matrix @ beside)
    assert close(found.row_sums(), matrix.sum(-1))
    assert close(found.dense(), matrix)


@pytest.mark.parametrize("function", [torch.abs, torch.square, torch.relu], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_the_entries_is_one_of_their_sums(kind: str, function: Callable[[Tensor], Tensor]) -> None:
    found, matrix = KINDS[kind]()
    changed = found.change(function)
    assert close(changed.dense(), function(matrix))
    assert close(found.dense(), matrix)  # as it was
    rows = random(TARGETS, matrix.shape[1], seed=2)
    assert close(changed.apply(rows), torch.einsum("kq,kqn->kn", rows, function(matrix).expand(TARGETS, -1, -1)))
    assert close(changed.row_sums(), function(matrix).sum(-1))


def sampled_step(n_query: int, n_key: int, tokens: Tensor | None = None) -> tuple[AttentionStep, Tensor]:
    """A sparse step with two heads, and its maps [heads, Nq, Nk]."""
    entries, where = random(2, n_query, ENTRIES).abs(), keys(2, n_query, ENTRIES, below=n_key)
    step = AttentionStep(
        "s",
        "image",
        "image",
        entries,
        random(2, n_key, 4),
        random(TARGETS, 2, n_query, 4),
        where,
        tokens,
        tokens,
    )
    return step, torch.stack([scattered(e, w, n_key) for e, w in zip(entries, where, strict=True)])


@pytest.mark.parametrize("part", [False, True], ids=["all tokens", "some tokens"])
def test_head_mean_and_rows_of_a_sampled_step(part: bool) -> None:
    tokens = torch.tensor([1, 2, 4, 5, 7]) if part else None
    step, matrices = sampled_step(5, 5, tokens)
    sizes = {"image": 8 if part else 5}
    whole = torch.zeros(2, sizes["image"], sizes["image"], dtype=torch.float64)
    index = torch.arange(5) if tokens is None else tokens
    whole[:, index[:, None], index] = matrices
    assert close(head_mean(step, sizes).dense(), whole.mean(0)[None])
    asked = torch.tensor([0, 4, 1])  # token 0 is no row of the part
    assert close(attention_rows(step, asked, sizes), whole[:, asked].transpose(0, 1))
    assert isinstance(placed(step, DenseMap(matrices.mean(0)), sizes), PlacedMap) == part
