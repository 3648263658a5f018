"""The attention trace: what a model's attention did for one input, as data.

A transformer's attention is a short program over *streams* of tokens. An adapter runs the model once and returns that
program; every attribution method is an interpreter of it and knows nothing of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Target(Protocol):
    """A scalar to explain, computed from what a model predicts for one token.

    A target whose attribute `reads` is "box" is computed from that token's box [4] instead of its class logits.
    """

    @property
    def query(self) -> int | None:
        """Token whose prediction is meant; None stands for every kept one."""
        ...

    def __call__(self, prediction: Tensor, /) -> Tensor:
        """Scalar y from logits [classes], or from a box (centre x, centre y, width, height; relative) [4]."""
        ...


def reads_box(target: Target) -> bool:
    """Whether a target is computed from a box; all others read class logits."""
    return getattr(target, "reads", "logits") == "box"


@dataclass(frozen=True)
class AttentionStep:
    """One attention structure as observed: stream `query` attends stream `key`.

    Masked (padding) tokens are left out of every tensor.
    """

    name: str  # e.g. "encoder.0.self"
    query: str
    key: str
    probabilities: Tensor  # A_h, softmax output [heads, Nq, Nk]
    values: Tensor  # V_h [heads, Nk, head_dim]
    output_gradient: Tensor  # dy/dO_h, O_h = A_h V_h [targets, heads, Nq, head_dim]

    @property
    def is_self(self) -> bool:
        return self.query == self.key


# Steps of one group read the streams as they were before the group (LXMERT's two cross-attentions).
Group = tuple[AttentionStep, ...]


@dataclass(frozen=True)
class Features:
    """Activations of one stream with their gradient, for methods on intermediate features."""

    activation: Tensor  # [N, channels]
    gradient: Tensor  # [targets, N, channels]


@dataclass(frozen=True)
class Layout:
    """Where a stream's valid tokens lie in the shape a user sees.

    Attributes:
        shape: (h, w) of an image grid, (N,) of a sequence, padding included.
        index: flat position of each valid token [N], ascending.
        extent: height and width in input pixels of what the valid tokens of an image grid cover.
    """

    shape: tuple[int, ...]
    index: Tensor
    extent: tuple[int, int] | None = None

    def restore(self, relevance: Tensor) -> Tensor:
        """Scatter [targets, N] to [targets, *shape]; padded positions are 0."""
        full = relevance.new_zeros(relevance.shape[0], math.prod(self.shape))
        full[:, self.index] = relevance
        return full.reshape(-1, *self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """The part of `shape` that valid tokens fill, from its first corner on."""
        if len(self.index) == math.prod(self.shape) or len(self.index) == 0:
            return self.shape if len(self.index) else (0,) * len(self.shape)
        return tuple(int(axis.max()) + 1 for axis in np.unravel_index(self.index.cpu().numpy(), self.shape))

    def crop(self, relevance: Tensor) -> Tensor:
        """The part of [targets, *shape] that valid tokens fill: [targets, h', w'] or [targets, N']."""
        return relevance[(slice(None), *(slice(0, n) for n in self.grid))]


@dataclass(frozen=True)
class AttentionTrace:
    """The attention program of one input and what was observed while it ran for `k` targets.

    `encoder` holds the homologous part (type A: self-attention on one source), `fusion` everything from the
    first step that mixes sources on (types B and C). The explained token of target j is `tokens[j]` of stream
    `readout`. Attribution is reported for `sources`.
    """

    sizes: Mapping[str, int]  # valid tokens of each stream
    sources: tuple[str, ...]
    encoder: tuple[Group, ...]
    fusion: tuple[Group, ...]
    readout: str
    tokens: Tensor  # [k]
    targets: tuple[Target, ...]  # what was explained, a row each
    layouts: Mapping[str, Layout]
    features: Mapping[str, Mapping[str, Features]]  # feature name -> source -> features, those that were asked for
    outputs: Mapping[str, Any] = field(default_factory=dict)  # model outputs of this input (logits, ...)

    @property
    def n_targets(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def sources_fixed(self) -> bool:
        """True if no source is ever updated by another stream (encoder-decoder models)."""
        return all(step.is_self or step.query not in self.sources for step in self.steps())

    def steps(self) -> Iterator[AttentionStep]:
        for group in (*self.encoder, *self.fusion):
            yield from group

    def slice(self, start: int, stop: int) -> AttentionTrace:
        """The same trace for targets start..stop-1 (tensors are views)."""

        def cut(groups: tuple[Group, ...]) -> tuple[Group, ...]:
            return tuple(
                tuple(replace(step, output_gradient=step.output_gradient[start:stop]) for step in group)
                for group in groups
            )

        return replace(
            self,
            encoder=cut(self.encoder),
            fusion=cut(self.fusion),
            tokens=self.tokens[start:stop],
            targets=self.targets[start:stop],
            features={
                name: {s: replace(f, gradient=f.gradient[start:stop]) for s, f in by_source.items()}
                for name, by_source in self.features.items()
            },
        )


def block_bytes(device: torch.device) -> int:
    """Bytes of attention maps to work on at a time: what a cache holds, or enough to keep an accelerator busy."""
    return 4 * 2**20 if device.type == "cpu" else 2**28


def batched_gradients(scalars: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of many scalars per batch item, from one graph.

    Items of a batch do not interact, so target j of every item shares one backward pass. The passes follow each
    other: run together (`is_grads_batched`) they took half as long again, and memory in proportion to their number.

    Args:
        scalars: per item its k_i scalars.
        inputs: tensors with the batch as first dimension [B, ...].

    Returns:
        per input its gradient [max k, B, ...], or None where no scalar depends on it.
    """
    n = max((len(s) for s in scalars), default=0)
    if n == 0:
        return [x.new_zeros(0, *x.shape) for x in inputs]
    gradients: list[Tensor | None] = [None] * len(inputs)
    for j in range(n):
        total = torch.stack([s[j] for s in scalars if len(s) > j]).sum()
        found = torch.autograd.grad(total, inputs, retain_graph=j + 1 < n, allow_unused=True)
        for i, gradient in enumerate(found):
            if gradient is None:
                continue
            rows = gradients[i]
            if rows is None:
                rows = gradients[i] = gradient.new_zeros(n, *gradient.shape)
            rows[j] = gradient
    return gradients
