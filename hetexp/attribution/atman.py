"""AtMan: what the prediction loses when attention to single tokens is suppressed (Deiseroth et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import with_features
from hetexp.attribution.items import as_features, numbers_of, repeated, require_one_input, singles
from hetexp.attribution.passes import Operations, Pass, passed, settled, values_of
from hetexp.errors import ConfigError
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace
from hetexp.models.watch import SOFTMAX

LOSSES = "atman"


class Suppressed(Operations):
    """Attention weights pass through `weigh(number of the map, weights [B, heads, Nq, Nk])`."""

    def __init__(self, weigh: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self._weigh, self._calls = weigh, 0

    def _weighed(self, weights: Tensor) -> Tensor:
        self._calls += 1
        return self._weigh(self._calls - 1, weights)

    def changed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation, with the weights that a softmax gives changed."""
        out = func(*args, **kwargs)
        return self._weighed(out) if func in SOFTMAX and out.ndim == 4 else out

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """The same in attention of the library's interface; a `hetexp.models.attention.Core`."""
        scores = (query @ key.transpose(-1, -2)) * scaling
        weights = self._weighed(torch.softmax(scores if mask is None else scores + mask, -1))
        return weights @ value, weights


@dataclass(frozen=True)
class SuppressionPass:
    """A forward pass for every token of every source; the traces' features "atman" are the losses of y."""

    factor: float
    most: int
    together: int

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets.

        Raises:
            ConfigError: for a model whose attention weights are no softmax over its tokens.
        """
        require_one_input("atman", adapter, traces)
        return [self._of(adapter, own, trace) for own, trace in singles("atman", adapter, inputs, traces)]

    def _of(self, adapter: Adapter, inputs: Mapping[str, Tensor], trace: AttentionTrace) -> AttentionTrace:
        targets, streams = settled(trace), self._streams(adapter, inputs)
        jobs = [
            (stream, tokens)
            for stream in trace.source_streams
            for tokens in torch.arange(trace.sizes[stream]).tensor_split(min(self.most, trace.sizes[stream]))
        ]
        like = next(trace.steps()).values
        whole = values_of(trace, targets)
        losses = {s: like.new_zeros(trace.n_targets, trace.sizes[s]) for s in trace.source_streams}
        for start in range(0, len(jobs), self.together):
            part = jobs[start : start + self.together]

            def weigh(number: int, weights: Tensor, part: Any = part) -> Tensor:
                factors = torch.ones_like(weights[:, :1, :1])
                for row, (stream, tokens) in enumerate(part):
                    if streams.get(number) == stream:
                        factors[row, ..., tokens.to(factors.device)] = 1 - self.factor
                changed = weights * factors
                return changed / changed.sum(-1, keepdim=True)

            suppressed = Suppressed(weigh)
            with suppressed.of(adapter.model, suppressed.attend):
                found = adapter.trace(repeated(inputs, len(part)), [[] for _ in part])
            for (stream, tokens), other in zip(part, found, strict=True):
                loss = (whole - values_of(other, targets)) / len(tokens)
                losses[stream][:, tokens] = loss[:, None].to(like)
        return with_features(trace, LOSSES, {s: as_features(rows) for s, rows in losses.items()})

    @staticmethod
    def _streams(adapter: Adapter, inputs: Mapping[str, Tensor]) -> dict[int, str]:
        """Number of an attention map, in the order in which the model computes them -> the stream it attends."""
        seen: list[Tensor] = []

        def keep(number: int, weights: Tensor) -> Tensor:
            seen.append(weights.detach())
            return weights

        watching = Suppressed(keep)
        with watching.of(adapter.model, watching.attend):
            (trace,) = adapter.trace(inputs, [[]])
        out: dict[int, str] = {}
        for step in trace.steps():
            alike = (
                n
                for n, weights in enumerate(seen)
                if n not in out and weights[0].shape == step.probabilities.shape and step.indices is None
                if torch.equal(weights[0], step.probabilities)
            )
            number = next(alike, None)
            if number is None:
                raise ConfigError(
                    f"atman suppresses attention to single tokens, and the attention {step.name} of {adapter.name} is "
                    "no softmax over tokens (it samples its keys): choose another method"
                )
            out[number] = step.key
        return out


@dataclass(frozen=True)
class AtMan:
    """y minus y with the attention to token j times 1 - factor in every layer and head, rows adding up to 1 again.

    The paper multiplies scores and looks at the cross-entropy of a text; this is its suppression of single tokens on
    the scalar y that all methods explain. It costs a forward pass per token, of text and image alike.

    Args:
        factor: share of the attention that is taken away.
        most: forward passes per stream, at most; where it has more tokens, neighbours are suppressed together and
            share the loss.
        together: inputs of one forward pass; it decides nothing but the time.
    """

    factor: float = 0.9
    most: int = 1024
    together: int = 64
    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1 or min(self.most, self.together) < 1:
            raise ConfigError(
                f"factor={self.factor} of atman must lie between 0 and 1, and most={self.most} and "
                f"together={self.together} be at least 1"
            )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (SuppressionPass(self.factor, self.most, self.together),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return numbers_of(passed(trace, self.passes[0]), LOSSES)
