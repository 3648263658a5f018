"""Integrated gradients of a model's features (Sundararajan, Taly and Yan, ICML 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import contributions, features_of, with_features
from hetexp.attribution.passes import Operations, Pass, changed_features, passed, settled, values_of
from hetexp.errors import ConfigError
from hetexp.models.observe import default_feature
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Features


class _Attached(Operations):
    """Nothing is detached inside the model: detectors detach boxes that they refine, which training asks for.

    The gradient then is that of what the model computes, or its integral would miss what the boxes do.
    """

    def changed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation, or no operation for a detachment."""
        return args[0] if func is Tensor.detach else func(*args, **kwargs)


@dataclass(frozen=True)
class PathPass:
    """Features with their gradient's mean on the way to them from 0; the outputs are those at 0.

    The integral is a Gauss-Legendre sum over t with the features F t^2, since normalisation makes gradients steep near
    0: `steps` points, a forward pass and a backward pass per target each.
    """

    steps: int

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets.

        Raises:
            ConfigError: for a model that does not say which modules make its features.
        """
        targets = [settled(trace) for trace in traces]

        def at(place: float) -> list[AttentionTrace]:
            def scaled(features: Tensor, number: int) -> Tensor:
                return features * place

            attached = _Attached().of(adapter.model)
            with attached, changed_features(adapter, "integrated_gradients", scaled) as name:
                return adapter.trace(inputs, targets if place else [[] for _ in targets], features=[name])

        name = default_feature(adapter.feature_names)
        totals: list[dict[str, Features]] = []
        for x, weight in zip(*np.polynomial.legendre.leggauss(self.steps), strict=True):
            t = float(x + 1) / 2
            place, share = t**2, float(weight) * t
            found = [features_of(trace, name) for trace in at(place)]
            parts = [
                {s: Features(f.activation / place, f.gradient * share) for s, f in features.items()}
                for features in found
            ]
            totals = [_added(a, b) for a, b in zip(totals, parts, strict=True)] if totals else parts
        return [
            replace(with_features(trace, name, total), outputs=start.outputs)
            for trace, total, start in zip(traces, totals, at(0.0), strict=True)
        ]


@dataclass(frozen=True)
class IntegratedGradients:
    """F . mean of dy/dF over the straight way from 0 to the features F; all contributions add up to y(F) - y(0).

    Args:
        steps: points of the integral.
    """

    steps: int = 128
    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} of integrated gradients must be at least 1")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (PathPass(self.steps),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        path = passed(trace, self.passes[0])
        return contributions(path, next(iter(path.features)), "integrated gradients")

    def completeness_error(self, trace: AttentionTrace) -> Tensor:
        """|sum of contributions - (y(F) - y(0))| / |y(F) - y(0)| of every target [k]."""
        path, targets = passed(trace, self.passes[0]), settled(trace)
        difference = values_of(trace, targets) - values_of(path, targets)
        total = torch.stack([rows.sum(1) for rows in self(trace, CorrectedMaps((), trace.sizes)).values()]).sum(0)
        return (total - difference).abs() / difference.abs()


def _added(a: Mapping[str, Features], b: Mapping[str, Features]) -> dict[str, Features]:
    return {s: replace(f, gradient=f.gradient + b[s].gradient) for s, f in a.items()}
