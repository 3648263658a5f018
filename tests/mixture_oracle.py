"""Dense oracle of models of text, sound and pictures, independent of the package.

Every softmax of the library's eager forward pass is an attention map; they come in program order, which a test states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from oracle import Run, Seen
from torch import Tensor, nn


@contextmanager
def catching_softmax() -> Iterator[list[Tensor]]:
    """Outputs of `softmax` inside, in the graph."""
    caught: list[Tensor] = []
    plain = nn.functional.softmax

    def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        out = plain(x, dim, **kwargs)  # some models round to float32 here, which a float64 oracle must not
        caught.append(out if out.requires_grad else out.requires_grad_())
        return out

    with patch.object(nn.functional, "softmax", softmax):
        yield caught


def run_mixture(
    forward: Callable[[], Tensor],
    links: Sequence[tuple[str, str]],
    n_encoder: int,
    first_layers: Mapping[str, nn.Module],
    readout: str,
    token: int,
    item: int = 0,
) -> Run:
    """One forward and one full backward pass for one target.

    Args:
        forward: runs the model and returns y.
        links: (query, key) of every attention, in program order.
        n_encoder: how many of them are the encoders'.
        first_layers: source -> the module that its embedded tokens enter.
        item: which of the batch is explained; every stream is that item's.
    """
    embedded: dict[str, Tensor] = {}

    def keep(stream: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            embedded[stream] = args[0] if args else kwargs["hidden_states"]
            if not embedded[stream].requires_grad:
                embedded[stream].requires_grad_()

        return hook

    handles = [m.register_forward_pre_hook(keep(s), with_kwargs=True) for s, m in first_layers.items()]
    try:
        with catching_softmax() as maps:
            y = forward()
    finally:
        for handle in handles:
            handle.remove()
    assert len(maps) == len(links), (len(maps), len(links))
    roots = [*embedded.values(), *maps]
    found = [
        torch.zeros_like(x) if g is None else g
        for x, g in zip(roots, torch.autograd.grad(y, roots, allow_unused=True), strict=True)
    ]
    batch = len(next(iter(embedded.values())))
    steps = [
        Seen(*link, *(x.detach().reshape(batch, -1, *x.shape[-2:])[item] for x in (a, g)))
        for link, a, g in zip(links, maps, found[len(embedded) :], strict=True)
    ]
    sizes = {step.query: step.map.shape[1] for step in steps}
    return Run(
        encoder=steps[:n_encoder],
        fusion=[[step] for step in steps[n_encoder:]],
        features={s: (x.detach()[item], g[item]) for (s, x), g in zip(embedded.items(), found, strict=False)},
        sizes=sizes,
        sources=tuple(embedded),
        readout=readout,
        token=token,
    )
