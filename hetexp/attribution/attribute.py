"""From a model to relevance: traces that hold what methods read, and several methods applied to one trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.method import Method, NeedsPasses
from hetexp.attribution.passes import with_passes
from hetexp.attribution.registry import get_method
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Target

BYTE_BUDGET = 128 * 2**20  # of corrected maps held at a time


def build_methods(names: Iterable[str]) -> dict[str, Method]:
    """name -> method with the parameters of its record.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    return {name: get_method(name).build() for name in names}


def observe(
    adapter: Adapter,
    inputs: Mapping[str, Tensor],
    targets: Sequence[Sequence[Target]],
    methods: Mapping[str, Method],
) -> list[AttentionTrace]:
    """Traces of a batch that hold what these methods read, and nothing that costs more."""
    features = dict.fromkeys(name for method in methods.values() for name in method.features)
    passes = dict.fromkeys(p for m in methods.values() if isinstance(m, NeedsPasses) for p in m.passes)
    return with_passes(adapter, inputs, adapter.trace(inputs, targets, features=list(features)), list(passes))


def attribute(
    trace: AttentionTrace, methods: Mapping[str, Method], byte_budget: int = BYTE_BUDGET
) -> dict[str, dict[str, Tensor]]:
    """Relevance of every method for all targets of a trace.

    Targets run in groups small enough that the corrected maps of a group stay under `byte_budget`, so memory does
    not grow with their number; within a group all methods share the maps. Where the explained token belongs to a
    source, its own entry is 0 for every method: it says nothing about the other tokens.

    Returns:
        method -> source -> relevance of its tokens in the model's own order, padding included (0) [k, positions].
    """
    corrections = sorted({c for m in methods.values() for c in m.corrections})
    step = _targets_at_once(trace, len(corrections), byte_budget)
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in methods}
    for start, stop in trace.runs(step):
        piece = trace.slice(start, stop).up_to_readout()
        maps = CorrectedMaps(corrections, piece.sizes)
        for name, method in methods.items():
            found = _without_itself(piece, method(piece, maps))
            parts[name].append({s: pad(rows, (0, trace.sizes[s] - rows.shape[1])) for s, rows in found.items()})
    return {
        name: {
            source: trace.layouts[source].tokens(torch.cat([view.of(p[view.stream]) for p in pieces]))
            for source, view in trace.views.items()
        }
        for name, pieces in parts.items()
    }


def pictures(trace: AttentionTrace, found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """What `attribute` found in each source's own shape: [k, h, w] of an image grid, [k, N] of a sequence."""
    return {name: {s: trace.layouts[s].picture(r) for s, r in by_source.items()} for name, by_source in found.items()}


def _without_itself(trace: AttentionTrace, relevance: dict[str, Tensor]) -> dict[str, Tensor]:
    """Relevance per stream [k, N] with the explained token's own entry set to 0."""
    k = torch.arange(trace.n_targets, device=trace.tokens.device)
    cleared = {
        stream: relevance[stream].index_put((k, tokens), relevance[stream].new_zeros(()))
        for stream, tokens in trace.readouts.items()
        if stream in relevance
    }
    return relevance | cleared


def _targets_at_once(trace: AttentionTrace, corrections: int, byte_budget: int) -> int:
    entries = sum(step.entries for step in trace.steps())
    itemsize = next(trace.steps()).values.dtype.itemsize
    return max(1, byte_budget // max(1, entries * itemsize * corrections))
