"""Layer-wise relevance propagation with the rules of Chefer, Gur and Wolf (ICCV 2021, doi:10.48550/arXiv.2103.15679).

A backward pass of other rules: what flows from a layer's output to its inputs is relevance in the place of a gradient.

- linear layer (alpha 1, beta 0): of all products input x weight, the positive ones share its relevance;
- product of matrices: to each factor half of X (R / XY) Y^T, entry by entry;
- sum of two branches: by their part in each entry, then scaled so that each branch gets the share that its total has in
  the sum of both totals' magnitudes;
- attention weights, normalisations and activations hand relevance on; scalar factors and constants take none.

Divisions are stabilised with 1e-9. Relevance is balanced input by input of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hetexp.attribution.passes import Operations
from hetexp.errors import ConfigError
from hetexp.models.watch import PRODUCTS

_HAND_ON = {F.layer_norm, F.relu, F.gelu, F.silu, F.softmax, torch.softmax, torch.relu, torch.tanh, torch.sigmoid}
_HAND_ON |= {Tensor.softmax, Tensor.tanh, Tensor.sigmoid, Tensor.relu}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_FACTORS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.div, Tensor.div, Tensor.__truediv__}
_PLACES = {  # they move or copy entries, so the gradient moves relevance
    *(
        Tensor.view,
        Tensor.reshape,
        Tensor.transpose,
        Tensor.permute,
        Tensor.flatten,
        Tensor.unflatten,
        Tensor.contiguous,
    ),
    *(Tensor.__getitem__, Tensor.unsqueeze, Tensor.squeeze, Tensor.expand, Tensor.clone, Tensor.to, Tensor.split),
    *(torch.flatten, torch.cat, torch.stack, torch.transpose, torch.permute, torch.reshape, torch.split, torch.chunk),
    *(Tensor.chunk, Tensor.requires_grad_, F.dropout),
}


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, stabilised; 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == -1e-9, 1e-9, b + 1e-9))


def _total(x: Tensor) -> Tensor:
    """Sum over everything but the batch, [B, 1, ...]."""
    return x.sum(tuple(range(1, x.ndim)), keepdim=True)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, balance: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.balance = balance
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        parts = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        share = ratio(relevance, F.linear(*parts[0]) + F.linear(*parts[1]))
        found = sum((own * (share @ w) for own, w in parts), torch.zeros_like(x))
        if ctx.balance:
            found = found * ratio(_total(relevance), _total(found))
        return found, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        share = ratio(relevance, a @ b) / 2
        return a * (share @ b.transpose(-1, -2)), b * (a.transpose(-1, -2) @ share)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        share = ratio(relevance, sum(ctx.saved_tensors))
        parts = [x * share for x in ctx.saved_tensors]
        totals = [_total(part) for part in parts]
        magnitude = totals[0].abs() + totals[1].abs()
        whole = _total(relevance)
        a, b = (p * ratio(ratio(t.abs(), magnitude) * whole, t) for p, t in zip(parts, totals, strict=True))
        return a, b


class _HandOn(torch.autograd.Function):
    """`y`, whose relevance is that of `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None


def _hand_on(x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = _HandOn.apply(x, y.detach())
    return found


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention whose backward pass is that of relevance; a `hetexp.models.attention.Core`."""
    scores = _Product.apply(_hand_on(query, query * scaling), key.transpose(-1, -2))
    probabilities = _hand_on(scores, torch.softmax(scores if mask is None else scores + mask, -1))
    return _Product.apply(probabilities, value), probabilities


class Rules(Operations):
    """Operations inside have the rules of relevance in the place of their gradients.

    Args:
        model: name of the model, for messages.
        balance: whether linear layers hand on exactly the total they got (GAE's code for DETR, not that for LXMERT).

    Raises:
        ConfigError: for an operation that there is no rule for.
    """

    def __init__(self, model: str, *, balance: bool) -> None:
        super().__init__()
        self._model = model
        self._balance = balance

    def changed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation, with the rule of relevance in the place of its gradient."""
        inputs = [x for x in args if isinstance(x, Tensor)]
        if not any(x.requires_grad for x in inputs) and func not in _PLACES:
            return func(*args, **kwargs)
        if func is F.linear:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return _Linear.apply(args[0], args[1], bias, self._balance)
        if func in PRODUCTS:
            return _Product.apply(*args[:2])
        if func in _SUMS and all(x.requires_grad for x in inputs) and len(inputs) == 2:
            return _Sum.apply(*inputs)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or not out.requires_grad or func in _PLACES:
            return out
        moved = [x for x in inputs if x.requires_grad]
        if (func in _HAND_ON or func in _SUMS | _FACTORS) and len(moved) == 1 and moved[0].shape == out.shape:
            return _hand_on(moved[0], out)
        raise ConfigError(
            f"the methods of relevance propagation (LRP) have no rule for the operation {func.__name__!r} of "
            f"{self._model}: choose another method"
        )
