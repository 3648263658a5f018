"""Input x gradient through a model whose attention and normalisation are held fixed: CP-LRP and LibraGrad."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import contributions, features_of, with_features
from hetexp.attribution.passes import Operations, Pass, passed, settled
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace
from hetexp.models.watch import SOFTMAX

_GATED = {F.gelu, F.silu}  # x times a gate of x


class Detached(Operations):
    """Attention weights, the spread in layer normalisation, and optionally gates are constants to the gradient."""

    def __init__(self, *, gates: bool) -> None:
        super().__init__()
        self._gates = gates

    def changed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation, with the constants detached."""
        if func in SOFTMAX:
            return func(*args, **kwargs).detach()
        if func is F.layer_norm:
            return _layer_norm(*args, **kwargs)
        if func is F.grid_sample:  # of deformable attention: where it samples is part of its weights
            return func(args[0], args[1].detach(), *args[2:], **kwargs)
        if self._gates and func in _GATED:
            x = args[0]
            with torch.no_grad():
                gate = torch.where(x == 0, 0, func(*args, **kwargs) / x)
            return x * gate
        return func(*args, **kwargs)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    out = centred / (centred.detach().square().mean(dims, keepdim=True) + eps).sqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    scores = (query @ key.transpose(-1, -2)).detach() * scaling
    probabilities = torch.softmax(scores if mask is None else scores + mask, -1)
    return probabilities @ value, probabilities


@dataclass(frozen=True)
class DetachedPass:
    """Features with the gradient of the detached backward pass."""

    feature: str
    gates: bool

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets."""
        with Detached(gates=self.gates).of(adapter.model, _attend):
            found = adapter.trace(inputs, [settled(trace) for trace in traces], features=[self.feature])
        return [with_features(trace, self.feature, features_of(trace, self.feature)) for trace in found]


@dataclass(frozen=True)
class DetachedGradient:
    """Input x gradient where attention and normalisation are linear: CP-LRP, and with linear gates LibraGrad.

    Args:
        feature: as in `InputXGradient`.
        gates: whether the gate of GELU and SiLU, Phi(x) in x Phi(x), is detached as well.
    """

    feature: str = "default"
    gates: bool = False
    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (DetachedPass(self.feature, self.gates),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return contributions(passed(trace, self.passes[0]), self.feature, "the detached gradient")
