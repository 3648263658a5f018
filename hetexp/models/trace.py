"""The attention trace: what a model's attention did for one input, as data.

A transformer's attention is a short program over *streams* of tokens. An adapter runs the model once and returns that
program; every attribution method is an interpreter of it and knows nothing of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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

    Masked (padding) tokens are left out of every tensor. A dense map holds the softmax output for every key. A
    sparse one (deformable attention) holds the `C` entries of a row that may differ from 0 and says in `indices` which
    key each belongs to; a key that is named several times gets their sum.

    Attributes:
        name: e.g. "encoder.0.self".
        query: stream of the rows.
        key: stream of the columns.
        probabilities: A_h, dense [heads, Nq, Nk] or sparse [heads, Nq, C].
        values: V_h [heads, Nk, head_dim].
        output_gradient: dy/dO_h with O_h = A_h V_h [targets, heads, Nq, head_dim].
        indices: of a sparse map, the key of every entry [heads, Nq, C]; None of a dense one.
        query_index: the rows' tokens in their stream [Nq]; None where they are all of them, in order.
        key_index: likewise the columns' [Nk].
        points: where a sparse map between two streams was sampled, x and y in units of the image's sides
            [heads, Nq, points, 2], and the weight of each point [heads, Nq, points].
        queries: of a dense map, what was compared with the keys [heads, Nq, width].
        keys: what it was compared with [heads, Nk, width].
    """

    name: str
    query: str
    key: str
    probabilities: Tensor
    values: Tensor
    output_gradient: Tensor
    indices: Tensor | None = None
    query_index: Tensor | None = None
    key_index: Tensor | None = None
    points: tuple[Tensor, Tensor] | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None

    @property
    def is_self(self) -> bool:
        return self.query == self.key

    @property
    def n_query(self) -> int:
        return self.output_gradient.shape[2]

    @property
    def n_key(self) -> int:
        return self.values.shape[1]

    @property
    def entries(self) -> int:
        """Numbers in one corrected map of this step: Nq x Nk, or heads x Nq x C where the map is sparse."""
        return self.n_query * self.n_key if self.indices is None else self.indices.numel()


# Steps of one group read the streams as they were before the group (LXMERT's two cross-attentions).
Group = tuple[AttentionStep, ...]


@dataclass(frozen=True)
class Features:
    """Activations of one stream with their gradient, for methods on intermediate features."""

    activation: Tensor  # [N, channels], or [targets, N, channels] where each target has an input of its own
    gradient: Tensor  # [targets, N, channels]

    def slice(self, start: int, stop: int) -> Features:
        """Those of targets start..stop-1."""
        activation = self.activation[start:stop] if self.activation.ndim == 3 else self.activation
        return Features(activation, self.gradient[start:stop])


@dataclass(frozen=True)
class Level:
    """One level of a multi-scale image: a grid (h, w), padding included, and the part of it that is valid."""

    shape: tuple[int, int]
    valid: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where a source's valid tokens lie in the shape a user sees.

    Attributes:
        shape: (h, w) of an image grid, (N,) of a sequence, padding included.
        index: position of each valid token in the model's own order, padding included [N], ascending.
        extent: height and width in input pixels of what the valid tokens of an image grid cover.
        levels: of a multi-scale image all grids in the model's own order, the finest (of `shape`) first; empty
            elsewhere.
    """

    shape: tuple[int, ...]
    index: Tensor
    extent: tuple[int, int] | None = None
    levels: tuple[Level, ...] = ()

    @property
    def positions(self) -> int:
        """Tokens in the model's own order, padding included."""
        return sum(math.prod(level.shape) for level in self.levels) if self.levels else math.prod(self.shape)

    def tokens(self, relevance: Tensor) -> Tensor:
        """Scatter [targets, N] to the model's own order of tokens [targets, positions]; padded ones are 0."""
        full = relevance.new_zeros(relevance.shape[0], self.positions)
        full[:, self.index] = relevance
        return full

    def picture(self, tokens: Tensor) -> Tensor:
        """Relevance [targets, positions] in the shape a user sees [targets, *shape].

        A multi-scale image is shown on its finest grid: each token's relevance is spread evenly over the part of the
        image that it covers, so the sum of all cells is the sum of all tokens.
        """
        if not self.levels:
            return tokens.reshape(-1, *self.shape)
        (height, width), finest = self.levels[0].shape, self.levels[0].valid
        out = tokens.new_zeros(len(tokens), height, width)
        for level, part in zip(self.levels, tokens.split([math.prod(a.shape) for a in self.levels], 1), strict=True):
            grid = part.reshape(-1, *level.shape)[:, : level.valid[0], : level.valid[1]]
            rows, columns = (_overlap(n, m).to(tokens) for n, m in zip(level.valid, finest, strict=True))
            out[:, : finest[0], : finest[1]] += rows.T @ grid @ columns
        return out

    def restore(self, relevance: Tensor) -> Tensor:
        """Scatter [targets, N] to [targets, *shape]; padded positions are 0."""
        return self.picture(self.tokens(relevance))

    @property
    def grid(self) -> tuple[int, ...]:
        """The part of `shape` that valid tokens fill, from its first corner on."""
        if self.levels:
            return self.levels[0].valid
        if len(self.index) == math.prod(self.shape) or len(self.index) == 0:
            return self.shape if len(self.index) else (0,) * len(self.shape)
        return tuple(int(axis.max()) + 1 for axis in np.unravel_index(self.index.cpu().numpy(), self.shape))

    def crop(self, relevance: Tensor) -> Tensor:
        """The part of [targets, *shape] that valid tokens fill: [targets, h', w'] or [targets, N']."""
        return relevance[(slice(None), *(slice(0, n) for n in self.grid))]


def cells(valid: tuple[int, int], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Flat positions of the top-left part (h, w) of a grid."""
    rows, columns = (torch.arange(n, device=device) for n in valid)
    return (rows[:, None] * shape[1] + columns).flatten()


def _overlap(coarse: int, fine: int) -> Tensor:
    """Share of each of `coarse` equal parts of a side that lies in each of `fine` equal parts, [coarse, fine]."""
    a, b = (torch.arange(n + 1, dtype=torch.float64) / n for n in (coarse, fine))
    shared = torch.minimum(a[1:, None], b[1:]) - torch.maximum(a[:-1, None], b[:-1])
    return shared.clamp(min=0) * coarse


@dataclass(frozen=True)
class View:
    """A source as a part of a stream: which of the stream's tokens belong to it [N]; None stands for all."""

    stream: str
    index: Tensor | None = None

    def of(self, rows: Tensor) -> Tensor:
        """The source's part of rows over the stream [k, stream's tokens]."""
        return rows if self.index is None else rows[:, self.index]


@dataclass(frozen=True)
class AttentionTrace:
    """The attention program of one input and what was observed while it ran for `k` targets.

    `encoder` holds the homologous part (type A: self-attention on one source), `fusion` everything from the
    first step that mixes sources on (types B and C). The prediction is read from one token of each stream in
    `readouts`: one for most models, two for a similarity of two towers.

    Attributes:
        sizes: valid tokens of each stream.
        views: source -> what it is of a stream; attribution is reported for sources.
        encoder: groups of the homologous part, in order.
        fusion: groups of the rest, in order.
        readouts: stream -> explained token of every target [k].
        targets: what was explained, a row each.
        layouts: source -> where its tokens lie.
        queries: row of the prediction that every target reads [k]; None where it is the explained token's number.
        features: feature name -> stream -> features, those that were asked for.
        outputs: model outputs of this input (logits, ...).
        deferred: finds the trace of targets start..stop-1 where the gradients of all would take too much memory; the
            steps of this trace then hold those of none.
        causal: the stream whose tokens attend none after themselves, if the prediction is read from it.
        prefixes: there, how many tokens end at the explained one, by target: its readout + 1, known without a wait.
        alternatives: where targets read different inputs (one of several texts), which one each does [k]; those of a
            slice must read the same, and the streams of this trace are as long as the longest.
        passes: traces of further passes that methods asked for, under what they asked with.
    """

    sizes: Mapping[str, int]
    views: Mapping[str, View]
    encoder: tuple[Group, ...]
    fusion: tuple[Group, ...]
    readouts: Mapping[str, Tensor]
    targets: tuple[Target, ...]
    layouts: Mapping[str, Layout]
    queries: Tensor | None = None
    features: Mapping[str, Mapping[str, Features]] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    deferred: Callable[[int, int], AttentionTrace] | None = None
    causal: str | None = None
    prefixes: tuple[int, ...] | None = None
    alternatives: tuple[int, ...] | None = None
    passes: Mapping[Any, AttentionTrace] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what attribution is reported for."""
        return tuple(self.views)

    @property
    def source_streams(self) -> tuple[str, ...]:
        """The streams that hold sources."""
        return tuple(dict.fromkeys(view.stream for view in self.views.values()))

    @property
    def tokens(self) -> Tensor:
        """Explained token of every target in the first stream that the prediction is read from [k]."""
        return next(iter(self.readouts.values()))

    @property
    def rows(self) -> Tensor:
        """Row of the prediction that every target reads: its object query [k]."""
        return self.tokens if self.queries is None else self.queries

    @property
    def n_targets(self) -> int:
        return len(self.targets)

    @property
    def has_co_attention(self) -> bool:
        """True if two streams attend each other (LXMERT), False for encoder-decoders, joint streams and towers."""
        links = {(step.query, step.key) for step in self.steps() if not step.is_self}
        return any((key, query) in links for query, key in links)

    def steps(self) -> Iterator[AttentionStep]:
        for group in (*self.encoder, *self.fusion):
            yield from group

    def runs(self, most: int) -> Iterator[tuple[int, int]]:
        """Ranges start..stop-1 of at most `most` targets that may be explained together.

        All of a range explain the same token of a causal stream, and read the same of several alternatives.
        """
        deciding = (self.prefixes, self.alternatives)
        kinds = list(zip(*((0,) * self.n_targets if x is None else x for x in deciding), strict=True))
        start = 0
        for stop in range(1, self.n_targets + 1):
            if stop == self.n_targets or stop - start == most or kinds[stop] != kinds[start]:
                yield start, stop
                start = stop
        if not self.n_targets:
            yield 0, 0

    def up_to_readout(self) -> AttentionTrace:
        """The program without those tokens of a causal stream that follow the explained one.

        They cannot have acted on it. Where they stay, a method that reads whole maps would tell of them, and a token
        would be explained otherwise than from the prefix that the model had predicted it from.
        """
        if self.causal is None or not self.prefixes:
            return self
        stream, n = self.causal, self.prefixes[0]

        def cut(step: AttentionStep) -> AttentionStep:
            a, values, gradient = step.probabilities, step.values, step.output_gradient
            queries, keys = step.queries, step.keys
            if step.query == stream:
                a, gradient, queries = a[:, :n], gradient[:, :, :n], None if queries is None else queries[:, :n]
            if step.key == stream:
                a, values, keys = a[..., :n], values[:, :n], None if keys is None else keys[:, :n]
            return replace(step, probabilities=a, values=values, output_gradient=gradient, queries=queries, keys=keys)

        return replace(
            self,
            sizes={**self.sizes, stream: n},
            encoder=tuple(tuple(map(cut, group)) for group in self.encoder),
            fusion=tuple(tuple(map(cut, group)) for group in self.fusion),
            features={
                name: {
                    s: Features(f.activation[:n], f.gradient[:, :n]) if s == stream else f for s, f in of_stream.items()
                }
                for name, of_stream in self.features.items()
            },
            passes={asked: trace.up_to_readout() for asked, trace in self.passes.items()},
        )

    def slice(self, start: int, stop: int) -> AttentionTrace:
        """The same trace for targets start..stop-1 (tensors are views, unless their gradients were deferred)."""
        passes = {asked: trace.slice(start, stop) for asked, trace in self.passes.items()}
        if self.deferred is not None:
            piece = self.deferred(start, stop)
            if piece.deferred is not None:
                piece = piece.slice(0, stop - start)
            return replace(piece, passes=passes)

        def cut(groups: tuple[Group, ...]) -> tuple[Group, ...]:
            return tuple(
                tuple(replace(step, output_gradient=step.output_gradient[start:stop]) for step in group)
                for group in groups
            )

        return replace(
            self,
            encoder=cut(self.encoder),
            fusion=cut(self.fusion),
            readouts={stream: tokens[start:stop] for stream, tokens in self.readouts.items()},
            targets=self.targets[start:stop],
            queries=None if self.queries is None else self.queries[start:stop],
            prefixes=None if self.prefixes is None else self.prefixes[start:stop],
            alternatives=None if self.alternatives is None else self.alternatives[start:stop],
            features={
                name: {s: f.slice(start, stop) for s, f in by_source.items()}
                for name, by_source in self.features.items()
            },
            passes=passes,
        )
