"""GAE on attention weighted with the norm of what is attended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.gae import Gae
from hetexp.models.trace import AttentionStep, AttentionTrace, Group


@dataclass(frozen=True)
class ValueWeightedGae:
    """GAE with A_h[i, j] |V_h[j]| in the place of A_h[i, j].

    A token that is attended much but whose value is short contributes little to the output (Kobayashi et al., EMNLP
    2020, doi:10.18653/v1/2020.emnlp-main.574). The norm is Euclidean, of the head's own value vector. The gradient is
    that of the attention map itself.

    Args:
        normalise: as in `Gae`.
    """

    normalise: bool = True
    corrections: ClassVar[tuple[str, ...]] = ()  # its maps are of its own
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        other = weighted(trace, lambda step: step.values.norm(dim=-1))
        return Gae(self.normalise)(other, CorrectedMaps(Gae.corrections, trace.sizes))


def weighted(trace: AttentionTrace, of_keys: Callable[[AttentionStep], Tensor]) -> AttentionTrace:
    """The trace with every map's columns times numbers of its own per head and key [heads, Nk]."""

    def one(step: AttentionStep) -> AttentionStep:
        weights = of_keys(step)
        if step.indices is None:
            return replace(step, probabilities=step.probabilities * weights[:, None])
        of_entries = weights.gather(1, step.indices.flatten(1)).view(step.indices.shape)
        return replace(step, probabilities=step.probabilities * of_entries)

    def groups(several: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(tuple(one(step) for step in group) for group in several)

    return replace(trace, encoder=groups(trace.encoder), fusion=groups(trace.fusion))
