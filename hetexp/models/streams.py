"""Which streams of tokens a pass had: from what its attention depends on, numbers of tokens, and inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count

from torch import Tensor

from hetexp.models.survey import Call
from hetexp.models.wiring_file import WiredSource

# What the library calls its inputs -> what the stream of their tokens is called.
INPUTS = {
    "input_ids": "text",
    "pixel_values": "image",
    "visual_embeds": "image",
    "visual_feats": "image",
    "input_features": "audio",
    "input_values": "audio",
    "decoder_input_ids": "target",
}
BEFORE = (0, 1, 2, 5)  # tokens before the patches of an image: none, CLS, distillation, registers


@dataclass
class Stream:
    """A stream as far as it is known: its tokens, the calls that updated it, and the input that it comes from."""

    name: str
    tokens: int
    input: str | None
    updates: list[int] = field(default_factory=list)


def streams_of(calls: Sequence[Call], given: Mapping[str, Tensor]) -> tuple[list[Stream], list[tuple[Stream, Stream]]]:
    """The streams, and which attends which in every call."""
    streams: list[Stream] = []
    links = []

    def known(n: int, lineage: frozenset[int]) -> Stream | None:
        """The stream of n tokens that was last updated by a call of this lineage."""
        fitting = [s for s in streams if s.tokens == n and lineage & set(s.updates)]
        return max(fitting, key=lambda s: max(lineage & set(s.updates)), default=None)

    def new(n: int, inputs: frozenset[str]) -> Stream:
        taken = {s.input for s in streams}
        found = Stream("", n, _input_of(n, inputs, given, taken))
        found.name = _name(found, {s.name for s in streams})
        streams.append(found)
        return found

    def untouched(n: int, inputs: frozenset[str]) -> Stream | None:
        """A stream of n tokens that no call has updated, of no other input."""
        waiting = [s for s in streams if s.tokens == n and not s.updates]
        return next((s for s in waiting if s.input is None or not inputs or s.input in inputs), None)

    for i, call in enumerate(calls):
        others = call.mixed - call.read  # calls that only the queries depend on
        key = known(call.n_key, call.read) or untouched(call.n_key, call.inputs) or new(call.n_key, call.inputs)
        asking = known(call.n_query, others)
        if asking is None and call.n_query == call.n_key:
            query = key
        else:
            query = (
                asking
                or known(call.n_query, call.mixed)
                or untouched(call.n_query, frozenset())
                or new(call.n_query, frozenset())
            )
        links.append((query, key))
        query.updates.append(i)
    return streams, links


def _input_of(n: int, inputs: frozenset[str], given: Mapping[str, Tensor], taken: set[str | None]) -> str | None:
    """The input that a new stream of n tokens comes from: the one it depends on, or one with as many entries."""
    depends = [name for name in given if name in inputs and name not in taken]
    if len(depends) == 1:
        return depends[0]
    counted = [
        name
        for name, x in given.items()
        if name not in taken and "mask" not in name and (name in depends or not x.is_floating_point())
        if n in _entries(x)
    ]
    return counted[0] if counted else None


def _entries(x: Tensor) -> list[int]:
    """Sizes of an input but for the one item."""
    sizes = list(x.shape)
    if 1 in sizes:
        sizes.remove(1)
    return sizes


def _name(stream: Stream, taken: set[str]) -> str:
    without = "queries" if taken else "tokens"
    own = without if stream.input is None else INPUTS.get(stream.input, stream.input)
    return next(name for name in chain([own], (f"{own}_{i}" for i in count(2))) if name not in taken)


def source_of(stream: Stream, given: Mapping[str, Tensor]) -> WiredSource:
    """A stream as a source; that of a picture lies on the grid of its patches."""
    pixels = given[stream.input or ""]
    if pixels.ndim == 4:
        height, width = pixels.shape[2:]
        for before in BEFORE:
            n = stream.tokens - before
            patch = math.isqrt(height * width // n) if n > 0 else 0
            if patch and height % patch == 0 and width % patch == 0 and height * width == n * patch**2:
                return WiredSource(
                    stream.name, f"{before}:" if before else ":", (height // patch, width // patch), patch
                )
    return WiredSource(stream.name)
