"""What an observed forward pass leaves behind, what is asked of it, and where sources lie in its streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.models.observe import hooked
from hetexp.models.trace import Target
from hetexp.models.watch import Seen

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where the tokens of a source lie.

    Attributes:
        stream: the stream that holds them.
        tokens: their positions in it as the model runs it, padding included [N], on the CPU.
        shape: (h, w) of an image grid, (N,) of a sequence, padding included.
        index: their positions in that shape [N], ascending; None where they fill it in order.
        extent: height and width in pixels that an image grid covers.
    """

    stream: str
    tokens: Tensor
    shape: tuple[int, ...]
    index: Tensor | None = None
    extent: tuple[int, int] | None = None


@dataclass(frozen=True)
class Run:
    """What one observed forward pass left behind.

    Attributes:
        inputs: what the model was given, where the caller keeps it.
        logits: [B, rows, classes], in the graph.
        seen: step's name -> what was observed.
        embedded: stream -> its tokens as they enter their first layer, in the graph [B, N, C].
        valid: stream -> which tokens are no padding [B, N], on the CPU: sizes follow from it.
        notes: what the wiring itself noted of the pass.
    """

    inputs: Inputs
    logits: Tensor
    seen: Mapping[str, Seen]
    embedded: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What one trace explains.

    Attributes:
        targets: the targets.
        rows: the row of logits that each reads.
        scalars: y of each, in the graph.
        item: row of the batch of logits.
        members: stream -> its item of the batch.
    """

    targets: tuple[Target, ...]
    rows: tuple[int, ...]
    scalars: tuple[Tensor, ...]
    item: int
    members: Mapping[str, int]

    def part(self, start: int, stop: int) -> Question:
        """Targets start..stop-1."""
        cut = slice(start, stop)
        return replace(self, targets=self.targets[cut], rows=self.rows[cut], scalars=self.scalars[cut])


def lanes_of(questions: Sequence[Question]) -> list[list[Question]]:
    """Questions of items that share no backward pass with another, since they read the same row of the batch."""
    items = dict.fromkeys(question.item for question in questions)
    return [[question for question in questions if question.item == item] for item in items]


@contextmanager
def entering(layers: Mapping[str, nn.Module], embedded: dict[str, Tensor], gradients: bool) -> Iterator[None]:
    """Keep what enters the first layers; the graph begins there where gradients are asked for."""

    def keep(stream: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            if gradients and not x.requires_grad:
                x.requires_grad_()
            embedded[stream] = x

        return hook

    with hooked(m.register_forward_pre_hook(keep(s), with_kwargs=True) for s, m in layers.items()):
        yield


def sequence(stream: str, mask: Tensor) -> Place:
    """A source that is a stream of its own, in order; `mask` [N] is the stream's."""
    return Place(stream, torch.arange(len(mask)), (len(mask),))


def patches(stream: str, pixels: Tensor, patch: int, before: int) -> Place:
    """The patches of an image [..., H, W] behind `before` other tokens of their stream (a CLS token)."""
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    tokens = torch.arange(math.prod(grid)) + before
    return Place(stream, tokens, grid, extent=(grid[0] * patch, grid[1] * patch))
