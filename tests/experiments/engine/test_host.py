"""Results of a batch come from the device in as few copies as there are types of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hetexp.experiments.engine.host import on_host


class Copies(TorchDispatchMode):
    """Counts joins, each of which is copied once."""

    def __init__(self) -> None:
        super().__init__()
        self.joins = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.joins += func is torch.ops.aten.cat.default
        return func(*args, **(kwargs or {}))


def test_every_tensor_comes_back_as_it_was() -> None:
    items = [
        {("gae", "text"): torch.rand(2, 3, requires_grad=True), ("gae", "image"): torch.arange(4)},
        {("gae", "text"): torch.rand(3).expand(2, 3).T, ("gae", "image"): torch.zeros(0, 5)},
        {},
    ]
    with Copies() as copies:
        found = on_host(items)
    assert copies.joins == 2
    assert [list(item) for item in found] == [list(item) for item in items]
    for mine, theirs in zip(found, items, strict=True):
        for key, tensor in theirs.items():
            assert mine[key].dtype == tensor.dtype
            assert torch.equal(mine[key], tensor)
            assert not mine[key].requires_grad


def test_nothing_is_copied_of_nothing() -> None:
    assert on_host([]) == []
