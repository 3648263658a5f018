"""Methods on maps of relevance: partial LRP, Transformer attribution, and GAE on LRP maps (keys of GAE's code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hetexp.attribution.attention import last_step
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.gae import Gae
from hetexp.attribution.maps import DenseMap, Map, placed
from hetexp.attribution.passes import Pass, passed, settled
from hetexp.attribution.propagation import readout_rows, rollout_increment
from hetexp.attribution.relevance_rules import Rules, attend, ratio
from hetexp.errors import ConfigError
from hetexp.models.observe import default_feature
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionStep, AttentionTrace


@dataclass(frozen=True)
class RelevancePass:
    """A backward pass of relevance; the traces hold it in the place of the heads' output gradients."""

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets.

        Raises:
            ConfigError: for a model with an operation, or a kind of attention, that there is no rule for.
        """
        if any(step.indices is not None for trace in traces for step in trace.steps()):
            raise ConfigError(
                f"the methods of relevance propagation (LRP) have no rule for the sampled attention of {adapter.name}: "
                "choose another method"
            )
        # relevance is shared between a layer's two branches, so the graph must reach back to what both begin with
        first = default_feature(adapter.feature_names)
        rules = Rules(adapter.name, balance=not any(trace.has_co_attention for trace in traces))
        with rules.of(adapter.model, attend):
            found = adapter.trace(inputs, [settled(trace) for trace in traces], features=[first])
        return [replace(trace, features={}) for trace in found]


PASS = RelevancePass()


@dataclass(frozen=True)
class PartialLrp:
    """Head mean of the LRP map of the last attention from the explained token to each source.

    A source that it does not attend gets the sum over all rows of the map of the last attention to it: every token
    there hands on the relevance that has reached it. GAE's code scales the map to 0..1 as a whole, which neither an
    order nor a threshold of Otsu's notices.
    """

    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[tuple[Pass, ...]] = (PASS,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        relevance = passed(trace, PASS)
        out, start = {}, readout_rows(trace)
        for stream in trace.source_streams:
            step = last_step(relevance, stream)
            share = _share(step)
            mean = torch.einsum("khqd,hnd,hqn->kqn", share, step.values, step.probabilities) / len(step.values)
            rows = start[step.query] if step.query in trace.readouts else torch.ones_like(start[step.query])
            out[stream] = placed(step, DenseMap(mean), trace.sizes).apply(rows)
        return out


@dataclass(frozen=True)
class TransformerAttribution:
    """LRP maps with the gradient, C = E_h[max(G_h * LRP_h, 0)] (Chefer, Gur and Wolf, CVPR 2021).

    The explained token's own stream: rows of the rollout (I + C_L) ... (I + C_1) of its self-attention. Another
    stream: the row of the last attention to it. A source that the explained token does not attend gets what the stream
    between passes on: that stream's relevance times the map of its last attention to the source.
    """

    corrections: ClassVar[tuple[str, ...]] = ("pos",)  # its maps take as much memory
    features: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[tuple[Pass, ...]] = (PASS,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        start, map_of = readout_rows(trace), LrpMaps(trace).of

        def relevance(stream: str) -> Tensor:
            if stream in trace.readouts:
                own = [step for step in trace.steps() if step.is_self and step.query == stream]
                return start[stream] + rollout_increment(start[stream], own, map_of)
            step = last_step(trace, stream)
            return map_of(step).apply(start[step.query] if step.query in trace.readouts else relevance(step.query))

        return {stream: relevance(stream) for stream in trace.source_streams}


@dataclass(frozen=True)
class GaeLrp:
    """GAE's rules with E_h[max(G_h * LRP_h, 0)] in the place of E_h[max(G_h, 0) * A_h].

    Args:
        normalise: as in `Gae`.
    """

    normalise: bool = True
    corrections: ClassVar[tuple[str, ...]] = ("pos",)  # its maps take as much memory
    features: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[tuple[Pass, ...]] = (PASS,)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return Gae(self.normalise)(trace, LrpMaps(trace))


class LrpMaps(CorrectedMaps):
    """Maps E_h[max(G_h * LRP_h, 0)] of a trace, each computed once."""

    def __init__(self, trace: AttentionTrace) -> None:
        super().__init__(Gae.corrections, trace.sizes)
        self._relevance = {step.name: step for step in passed(trace, PASS).steps()}
        self._found: dict[str, Map] = {}

    def __call__(self, step: AttentionStep, correction: str) -> Map:
        return self.of(step)

    def of(self, step: AttentionStep) -> Map:
        """The map of one step of the trace."""
        if step.name not in self._found:
            share, v = _share(self._relevance[step.name]), step.values.transpose(1, 2)
            maps = [
                (g @ v * (s @ v) * step.probabilities).clamp(min=0).mean(0)
                for g, s in zip(step.output_gradient, share, strict=True)
            ]
            entries = torch.stack(maps) if maps else step.values.new_zeros(0, step.n_query, step.n_key)
            self._found[step.name] = placed(step, DenseMap(entries), self.sizes)
        return self._found[step.name]


def _share(step: AttentionStep) -> Tensor:
    """R_O / O / 2 [k, heads, Nq, head_dim]: times V^T and A it is the LRP map, half of the product's relevance."""
    return ratio(step.output_gradient, step.probabilities @ step.values) / 2
