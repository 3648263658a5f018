"""LeGrad: how sensitive the prediction is to every layer's attention (Bousselham et al., ICCV 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.models.trace import AttentionStep, AttentionTrace


@dataclass(frozen=True)
class LeGrad:
    """sum over steps X -> Y of the mean over heads and rows of max(G_h[i, j], 0), for token j of Y.

    The attention itself does not enter, but where it is 0 by design (what follows a token, keys that are not sampled)
    there is nothing to be sensitive to; a key that is sampled several times counts once. The paper takes the gradient
    of what each layer's own head predicts; here all layers have that of the final prediction, which every model has.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        like = next(trace.steps()).values
        out = {stream: like.new_zeros(trace.n_targets, trace.sizes[stream]) for stream in trace.source_streams}
        for step in trace.steps():
            if step.key in out:
                found = _dense(step) if step.indices is None else _sparse(step)
                columns = slice(None) if step.key_index is None else step.key_index
                out[step.key][:, columns] += found / (len(step.values) * trace.sizes[step.query])
        return out


def _dense(step: AttentionStep) -> Tensor:
    """Sum over heads and rows of the positive gradient of every key [k, Nk]."""
    total = step.values.new_zeros(len(step.output_gradient), step.n_key)
    for j, gradients in enumerate(step.output_gradient):
        for gradient, values, attention in zip(gradients, step.values, step.probabilities, strict=True):
            total[j] += (gradient @ values.T).clamp_(min=0).mul_(attention != 0).sum(0)
    return total


def _sparse(step: AttentionStep) -> Tensor:
    assert step.indices is not None
    total = step.values.new_zeros(len(step.output_gradient), step.n_key)
    for head, (keys, entries) in enumerate(zip(step.indices, step.probabilities, strict=True)):  # [Nq, C]
        first = first_of_each(keys, entries != 0)
        values = step.values[head][keys]  # [Nq, C, d]
        for j, gradient in enumerate(step.output_gradient[:, head]):
            found = torch.einsum("qd,qcd->qc", gradient, values).clamp_(min=0) * first
            total[j].index_add_(0, keys.flatten(), found.flatten())
    return total


def first_of_each(keys: Tensor, used: Tensor) -> Tensor:
    """Which entries [Nq, C] are the first used one of their key in their row."""
    place = torch.where(used, keys, -1 - torch.arange(keys.shape[1], device=keys.device))  # unused: each its own
    same = (place[:, :, None] == place[:, None, :]).tril(-1).any(2)
    return used & ~same
