"""TokenTM: attention weighted with how value and output projection change a token (Wu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import with_features
from hetexp.attribution.items import require_one_input, singles
from hetexp.attribution.passes import Pass, passed
from hetexp.attribution.propagation import readout_rows, through_encoder, walk_back
from hetexp.attribution.value_weighted import weighted
from hetexp.errors import ConfigError
from hetexp.models.observe import hooked
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionStep, AttentionTrace

CHANGES, LENGTHS = "changes of tokens", "lengths of tokens"


@dataclass(frozen=True)
class TokenPass:
    """What every attention's value and output projection make of its tokens, from one more forward pass.

    The projections are found by what they compute: the linear layer whose output is the values, and the one whose input
    is the heads' outputs.
    """

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces whose outputs hold, for each step, length ratio and cosine of its tokens [Nk], and lengths [Nk].

        Raises:
            ConfigError: for a model whose attention has no such linear layers.
        """
        require_one_input("token_tm", adapter, traces)
        return [self._of(adapter, own, trace) for own, trace in singles("token_tm", adapter, inputs, traces)]

    def _of(self, adapter: Adapter, inputs: Mapping[str, Tensor], trace: AttentionTrace) -> AttentionTrace:
        with _linear_layers(adapter.model) as calls:
            (seen,) = adapter.trace(inputs, [[]])
        changes, lengths = {}, {}
        for step in seen.steps():
            values, heads = step.values.transpose(0, 1).flatten(1), head_outputs(step)
            before = next((x for _, x, y in calls if _equal(y, values)), None)
            output = next((m for m, x, _ in calls if _equal(x, heads)), None)
            if before is None or output is None:
                raise ConfigError(
                    f"token_tm compares tokens before and after the projections of attention, and {adapter.name} has "
                    f"no linear layer that makes the {'values' if before is None else 'output'} of {step.name}: choose "
                    "another method"
                )
            after = values @ output.weight.detach().T
            lengths[step.name] = before.norm(dim=1)
            changes[step.name] = (after.norm(dim=1) / lengths[step.name], cosine_similarity(before, after, dim=1))
        return replace(with_features(trace, "", {}), outputs={CHANGES: changes, LENGTHS: lengths})


@contextmanager
def _linear_layers(model: nn.Module) -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Every call of a linear layer on a batch of one: the layer, its input [N, C] and output [N, D]."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(module: Any, args: Any, output: Tensor) -> None:
        if args[0].ndim == 3 and len(args[0]) == 1:
            calls.append((module, args[0][0].detach(), output[0].detach()))

    with hooked(m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Linear)):
        yield calls


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-5 * float(y.abs().amax()))


def head_outputs(step: AttentionStep) -> Tensor:
    """O of a step, its heads side by side [Nq, heads * head_dim]."""
    if step.indices is None:
        return (step.probabilities @ step.values).transpose(0, 1).flatten(1)
    parts = [
        torch.einsum("qc,qcd->qd", a, v[keys])
        for a, v, keys in zip(step.probabilities, step.values, step.indices, strict=True)
    ]
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class TokenTM:
    """Gradient-weighted attention E_h[max(G_h, 0) A_h], each column times the change W_j of its token.

    W_j is the ratio of lengths after and before the projections, times exp(cos) over its mean, of the angle between
    the two. Maps are propagated by I + A W from the tokens' own lengths on. The paper also follows the feed-forward
    layers, which a trace of attention does not hold.
    """

    corrections: ClassVar[tuple[str, ...]] = ("pos",)  # its maps take as much memory
    features: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[tuple[Pass, ...]] = (TokenPass(),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        outputs = passed(trace, self.passes[0]).outputs

        def change(step: AttentionStep) -> Tensor:
            ratio, cosine = (x[: step.n_key] for x in outputs[CHANGES][step.name])
            return (ratio * cosine.exp() / cosine.exp().mean()).expand(len(step.values), -1)

        other = weighted(trace, change)
        own = CorrectedMaps(("pos",), trace.sizes)
        rows = walk_back(readout_rows(other), other.fusion, lambda step: own(step, "pos"))
        rows = through_encoder(rows, other, lambda step: own(step, "pos"), None)
        out = {}
        for stream in trace.source_streams:
            first = next(s for s in trace.steps() if s.key == stream and s.key_index is None)
            out[stream] = rows[stream] * outputs[LENGTHS][first.name][: first.n_key]
        return out
