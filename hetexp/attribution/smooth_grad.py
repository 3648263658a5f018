"""SmoothGrad: the gradient averaged over noisy copies of the features (Smilkov et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import features_of, with_features
from hetexp.attribution.items import generator_of, singles
from hetexp.attribution.passes import Pass, changed_features, passed, settled
from hetexp.errors import ConfigError
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Features


@dataclass(frozen=True)
class NoisyPass:
    """Features with the mean of their gradients at `samples` noisy copies, item by item.

    Noise is normal; its standard deviation is `noise` times the range of the tensor that it is added to.
    """

    samples: int
    noise: float

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets.

        Raises:
            ConfigError: for a model that does not say which modules make its features.
        """
        return [self._of(adapter, own, trace) for own, trace in singles("smooth_grad", adapter, inputs, traces)]

    def _of(self, adapter: Adapter, inputs: Mapping[str, Tensor], trace: AttentionTrace) -> AttentionTrace:
        random, targets = generator_of(inputs), settled(trace)
        total: dict[str, Features] = {}

        def noisy(features: Tensor, number: int) -> Tensor:
            drawn = torch.from_numpy(random.standard_normal(features.shape)).to(features)
            return features + drawn * (self.noise * (features.max() - features.min()).detach())

        with changed_features(adapter, "smooth_grad", noisy) as name:
            for _ in range(self.samples):
                (one,) = adapter.trace(inputs, [targets], features=[name])
                found = features_of(one, name)
                total = {
                    s: replace(f, gradient=f.gradient / self.samples + (total[s].gradient if total else 0))
                    for s, f in found.items()
                }
        return with_features(trace, name, total)


@dataclass(frozen=True)
class SmoothGrad:
    """sum_c |mean of dy/dF_c over noisy features| of every token: how much y would follow it.

    Args:
        samples: noisy copies, a forward pass each, and a backward pass per target.
        noise: standard deviation of the noise, in units of the features' range.
    """

    samples: int = 25
    noise: float = 0.15
    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise ConfigError(
                f"samples={self.samples}, noise={self.noise} of smooth_grad: give at least one sample, and no negative "
                "noise"
            )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (NoisyPass(self.samples, self.noise),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        found = next(iter(passed(trace, self.passes[0]).features.values()))
        return {s: found[s].gradient.abs().sum(-1) for s in trace.source_streams}
