"""From a model to its `Structure`: one item is run, and the shapes are kept."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hetexp.models.examples import example_inputs
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionStep, AttentionTrace, Group
from hetexp.program import Kind, Step, Stream, Structure, folded
from hetexp.targets import Logit


def structure(adapter: Adapter, inputs: Mapping[str, Tensor] | None = None) -> Structure:
    """The attention program of a model: streams, steps, their types and shapes (Figure 1 of the paper).

    Self-attention is of type A in the part before sources mix and of type C from there on; attention between two
    streams is of type B.

    Args:
        adapter: from `hetexp.load_model` or `hetexp.wrap`.
        inputs: the model's own keyword tensors of one item, which decide the shapes; without any they are made up.

    Returns:
        a description that prints as text and offers `plot`, `save` and `to_json`.

    Raises:
        InputError: for a model whose inputs cannot be made up.
    """
    item = example_inputs(adapter) if inputs is None else inputs
    traces = adapter.trace(item, [[]]) or adapter.trace(item, [[Logit()]])  # towers tell nothing of no target
    program = traces[0]
    logits = program.outputs["logits"]
    rows = len(logits) if logits.ndim == 2 else 1
    targets = [Logit(query=0), Logit(query=rows - 1)] if rows > 1 else [Logit()]
    read = _readouts(adapter.trace(item, [targets]))
    streams = tuple(
        Stream(name, n, tuple(_sources(program, name)), read.get(name, "")) for name, n in program.sizes.items()
    )
    groups = [_group(group, "A") for group in program.encoder] + [_group(group, "C") for group in program.fusion]
    return Structure(type(adapter.model).__name__, streams, folded(groups))


def _group(group: Group, own: Kind) -> tuple[Step, ...]:
    """The steps of a group; `own` is the type of self-attention in its part of the program."""
    return tuple(_step(step, own if step.is_self else "B") for step in group)


def _step(step: AttentionStep, kind: Kind) -> Step:
    heads, n_key, width = step.values.shape
    sampled = None if step.indices is None else step.indices.shape[2]
    return Step(step.name, step.query, step.key, kind, heads, step.n_query, n_key, width, sampled)


def _sources(trace: AttentionTrace, stream: str) -> list[tuple[str, int]]:
    """Sources of a stream with their tokens."""
    views = [(name, view) for name, view in trace.views.items() if view.stream == stream]
    return [(name, trace.sizes[stream] if view.index is None else len(view.index)) for name, view in views]


def _readouts(traces: list[AttentionTrace]) -> dict[str, str]:
    """Stream -> the token that a prediction is read from, or that each has its own."""
    found = {}
    for stream in traces[0].readouts:
        tokens = sorted({int(token) for trace in traces for token in trace.readouts[stream]})
        found[stream] = f"token {tokens[0]}" if len(tokens) == 1 else "its own token"
    return found
