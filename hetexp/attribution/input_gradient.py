"""Input x gradient, and what methods on features with their gradient share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.errors import InputError
from hetexp.models.trace import AttentionTrace, Features


@dataclass(frozen=True)
class InputXGradient:
    """sum_c F_c dy/dF_c over the channels of features F: embedded tokens and regions, or a detector's feature grid.

    Args:
        feature: which features, one of the model's `feature_names`; "default" is the first of them.
    """

    feature: str = "default"
    corrections: ClassVar[tuple[str, ...]] = ()

    @property
    def features(self) -> tuple[str, ...]:
        return (self.feature,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return contributions(trace, self.feature, "input x gradient")


def contributions(trace: AttentionTrace, name: str, method: str) -> dict[str, Tensor]:
    """sum_c F_c dy/dF_c of every stream with sources [k, N].

    Raises:
        InputError: naming the method, if the trace was taken without these features.
    """
    if name not in trace.features:
        raise InputError(
            f"{method} reads the features {name!r}, which this trace was taken without: trace with features=[{name!r}]"
        )
    found = trace.features[name]
    return {s: (found[s].gradient * found[s].activation).sum(-1) for s in trace.source_streams}


def features_of(trace: AttentionTrace, name: str) -> dict[str, Features]:
    """A trace's features with the gradients of all targets, also where these were deferred."""
    if trace.deferred is None:
        return dict(trace.features[name])
    parts = [trace.slice(j, j + 1).features[name] for j in range(trace.n_targets)]
    if trace.alternatives is None or not parts:
        return {
            s: replace(f, gradient=torch.cat([p[s].gradient for p in parts])) for s, f in trace.features[name].items()
        }
    return {
        s: Features(
            torch.stack([_longer(p[s].activation, n) for p in parts]),
            torch.cat([_longer(p[s].gradient, n) for p in parts]),
        )
        for s, n in trace.sizes.items()
    }


def _longer(tokens: Tensor, n: int) -> Tensor:
    """Tokens [..., N, channels] with zeros behind them [..., n, channels]."""
    return torch.nn.functional.pad(tokens, (0, 0, 0, n - tokens.shape[-2]))


def with_features(trace: AttentionTrace, name: str, features: Mapping[str, Features]) -> AttentionTrace:
    """The trace without what takes memory and is not asked for."""
    return replace(trace, encoder=(), fusion=(), features={name: features}, passes={}, deferred=None)
