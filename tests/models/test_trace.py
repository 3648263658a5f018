"""Gradients of many scalars, and the shape of traces."""

from __future__ import annotations

import torch

from hetexp.models.gradients import batched_gradients
from hetexp.models.observe import split_heads
from hetexp.models.trace import Layout


def test_batched_gradients() -> None:
    """Uneven numbers of scalars per item, against the derivative written out."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    unused = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, dtype=torch.float64)
    y = torch.tanh(x @ weight)
    scalars = [[y[b, j] for j in range(n)] for b, n in enumerate((5, 0, 3))]
    got, none = batched_gradients(scalars, [x, unused])
    assert none is None
    assert got is not None
    assert got.shape == (5, 3, 4)
    for b, wanted in enumerate(scalars):
        for j, scalar in enumerate(wanted):
            want = (1 - scalar.detach() ** 2) * weight[:, j]
            assert torch.allclose(got[j, b], want, rtol=0, atol=1e-14)
        assert bool((got[len(wanted) :, b] == 0).all())


def test_batched_gradients_of_nothing() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    (got,) = batched_gradients([[], []], [x])
    assert got is not None
    assert got.shape == (0, 2, 3)


def test_split_heads() -> None:
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert torch.equal(split_heads(x, 2)[1, 1, 2], x[1, 2, 2:])


def test_layout_restores_the_users_shape() -> None:
    layout = Layout((2, 3), torch.tensor([0, 1, 3, 4]))
    got = layout.restore(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert torch.equal(got, torch.tensor([[[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]]))
