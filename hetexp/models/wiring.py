"""A model's wiring as data: which of its attention modules connects which streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hetexp.models.observe import pick
from hetexp.models.trace import AttentionStep
from hetexp.models.watch import Seen


@dataclass(frozen=True)
class Wire:
    """One attention module of a model: stream `query` attends stream `key`.

    Attributes:
        name: the step's.
        module: it is called once in a forward pass.
        query: stream of the rows.
        key: stream of the columns.
        level: the one level of `image` whose tokens attend each other; None where all do.
    """

    name: str
    module: nn.Module
    query: str
    key: str
    level: int | None = None


def encoder_wires(layers: Sequence[nn.Module], own: str = "self_attn", stream: str = "image") -> list[Wire]:
    """A stream attends itself, layer by layer; `own` names the module in a layer."""
    return [Wire(f"encoder.{i}.self", layer.get_submodule(own), stream, stream) for i, layer in enumerate(layers)]


def decoder_wires(layers: Sequence[nn.Module], cross: str, own: str = "self_attn") -> list[Wire]:
    """Object queries attend each other (module `own` of a layer) and then the image (`cross`), layer by layer."""
    wires = []
    for i, layer in enumerate(layers):
        wires.append(Wire(f"decoder.{i}.self", layer.get_submodule(own), "queries", "queries"))
        wires.append(Wire(f"decoder.{i}.cross", layer.get_submodule(cross), "queries", "image"))
    return wires


def step(
    wire: Wire,
    seen: Seen,
    gradient: Tensor | None,
    b: int,
    k: int,
    tokens: Tensor | None = None,
    valid: Mapping[str, Tensor] | None = None,
) -> AttentionStep:
    """The step of one item of a batch.

    Args:
        seen: what was observed of the wire's module.
        gradient: dy/dO of the targets [>= k, B, heads, Nq, head_dim]; None where y does not depend on it.
        b: the item.
        k: its targets.
        tokens: which of the streams' tokens are connected; None stands for all.
        valid: stream -> positions that are no padding, for the streams that have some; the rest is left out.
    """
    heads, n_query = seen.probabilities.shape[1:3]
    if gradient is None:
        gradient = seen.values.new_zeros(k, len(seen.values), heads, n_query, seen.values.shape[3])
    probabilities, values, own = seen.probabilities[b], seen.values[b], gradient[:k, b]
    queries, keys = (None if x is None else x[b] for x in (seen.query, seen.key))
    if valid is not None and keys is not None and queries is not None:
        queries = pick(queries, 1, valid[wire.query]) if wire.query in valid else queries
        keys = pick(keys, 1, valid[wire.key]) if wire.key in valid else keys
    if valid is not None and wire.key in valid:
        probabilities, values = pick(probabilities, 2, valid[wire.key]), pick(values, 1, valid[wire.key])
    if valid is not None and wire.query in valid:
        probabilities, own = pick(probabilities, 1, valid[wire.query]), pick(own, 2, valid[wire.query])
    return AttentionStep(
        wire.name,
        wire.query,
        wire.key,
        probabilities,
        values,
        own,
        None if seen.indices is None else seen.indices[b],
        tokens,
        tokens,
        None if seen.points is None or wire.query == wire.key else (seen.points[0][b], seen.points[1][b]),
        queries,
        keys,
    )
