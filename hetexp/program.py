"""What a model's attention connects, as data: streams, steps, their types and shapes (Figure 1 of the paper).

It holds no tensors and needs no model: `hetexp.structure` finds it in a dry run, JSON keeps it, and text and pictures
are made of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hetexp.errors import DataError
from hetexp.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["A", "B", "C"]
KINDS: dict[Kind, str] = {
    "A": "homogenous: self-attention within one source",
    "B": "heterogenous: co-attention, one stream attends another",
    "C": "heterogenous: self-attention in the part that mixes sources",
}


@dataclass(frozen=True)
class Step:
    """One attention structure: stream `query` attends stream `key`.

    Attributes:
        name: the step's in the trace, e.g. "decoder.0.cross".
        kind: "A" homogenous; "B" co-attention and "C" self-attention in the part that mixes sources, both heterogenous.
        heads: attention heads.
        n_query: rows of a map, tokens of `query`.
        n_key: columns of a map, tokens of `key`.
        head_dim: numbers per value and head.
        sampled: keys that a row of a sparse map names; None where it holds all.
    """

    name: str
    query: str
    key: str
    kind: Kind
    heads: int
    n_query: int
    n_key: int
    head_dim: int
    sampled: int | None = None

    @property
    def is_self(self) -> bool:
        return self.query == self.key

    @property
    def shape(self) -> str:
        """Shape of the attention map, e.g. "8 × 100 × 950"."""
        keys = str(self.n_key) if self.sampled is None else f"{self.sampled} of {self.n_key}"
        return f"{self.heads} × {self.n_query} × {keys}"

    @property
    def attends(self) -> str:
        """Who attends whom."""
        return f"{self.query} {'self' if self.is_self else f'to {self.key}'}"


@dataclass(frozen=True)
class Stream:
    """One stream of tokens.

    Attributes:
        name: the stream's.
        tokens: how many it had in the dry run.
        sources: (name, tokens) of what attribution is reported for and lies in it.
        read: how a prediction is read from it, e.g. "token 0" or "its own token"; "" where none is.
    """

    name: str
    tokens: int
    sources: tuple[tuple[str, int], ...] = ()
    read: str = ""


@dataclass(frozen=True)
class Block:
    """Consecutive groups of steps that a model runs `times` times; steps of one group read their streams at once."""

    groups: tuple[tuple[Step, ...], ...]
    times: int
    last: tuple[str, ...]  # names of its steps in the last repetition

    @property
    def steps(self) -> list[Step]:
        """Its steps, first to last."""
        return [step for group in self.groups for step in group]

    @property
    def streams(self) -> list[str]:
        """The streams that it concerns."""
        return list(dict.fromkeys(name for step in self.steps for name in (step.query, step.key)))


@dataclass(frozen=True)
class Structure:
    """The attention program of a model.

    Attributes:
        model: class of the model.
        streams: its streams.
        blocks: its steps, first to last, identical layers folded.
    """

    model: str
    streams: tuple[Stream, ...]
    blocks: tuple[Block, ...]

    @property
    def steps(self) -> list[Step]:
        """The steps of every block once, first to last."""
        return [step for block in self.blocks for step in block.steps]

    def __str__(self) -> str:
        lines = [self.model, ""]
        width = max(len(s.name) for s in self.streams)
        for stream in self.streams:
            parts = [f"{stream.name:<{width}}  {stream.tokens:>6} tokens"]
            named = [f"{name} ({n})" for name, n in stream.sources]
            parts += [f"source{'s' if len(named) > 1 else ''} {', '.join(named)}"] if named else []
            parts += [f"a prediction is read from {stream.read}"] if stream.read else []
            lines.append("; ".join(parts))
        who = max(len(step.attends) for step in self.steps)
        shape = max(len(step.shape) for step in self.steps)
        for block in self.blocks:
            lines += ["", f"× {block.times}" if block.times > 1 else "once"]
            lasts = iter(block.last)
            for group in block.groups:
                for i, step in enumerate(group):
                    mark = " " if len(group) == 1 else "┌" if i == 0 else "└" if i + 1 == len(group) else "│"
                    last = next(lasts)
                    names = step.name if block.times == 1 else f"{step.name} … {last}"
                    lines.append(
                        f"  {mark} {step.kind}  {step.attends:<{who}}  A {step.shape:<{shape}}  "
                        f"V {step.heads} × {step.n_key} × {step.head_dim}   {names}"
                    )
        used = [kind for kind in KINDS if any(step.kind == kind for step in self.steps)]
        lines += ["", *(f"{kind}: {KINDS[kind]}" for kind in used)]
        if any(len(group) > 1 for block in self.blocks for group in block.groups):
            lines.append("┌ └: these steps read the streams as they were before any of them")
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def to_json(self) -> str:
        """The structure as JSON; `from_json` reads it."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """The structure that `to_json` wrote.

        Raises:
            DataError: if it is something else.
        """
        try:
            found = json.loads(text)
            streams = tuple(
                Stream(**{**s, "sources": tuple((str(n), int(k)) for n, k in s["sources"])}) for s in found["streams"]
            )
            blocks = tuple(
                Block(tuple(tuple(Step(**s) for s in g) for g in b["groups"]), b["times"], tuple(b["last"]))
                for b in found["blocks"]
            )
            return cls(found["model"], streams, blocks)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"this is no structure that hetexp wrote: {error!r}; write it with task=structure"
            ) from error

    def plot(self) -> Figure:
        """Streams as lanes, steps as boxes, as in Figure 1 of the paper."""
        from hetexp.reporting.figures.structure import draw_structure

        return draw_structure(self)

    def save(self, folder: Path) -> list[Path]:
        """Write `structure.json`, `.txt`, `.svg`, `.pdf` and `.png` into a folder."""
        from hetexp.reporting.figures.style import save

        written = [
            atomic_write(folder / "structure.json", self.to_json().encode()),
            atomic_write(folder / "structure.txt", f"{self}\n".encode()),
        ]
        return written + save(self.plot(), folder / "structure", ("svg", "pdf", "png"))


Groups = Sequence[tuple[Step, ...]]


def folded(groups: Groups) -> tuple[Block, ...]:
    """A program with consecutive repetitions of the same groups (names aside) folded; the shortest period first."""
    blocks: list[Block] = []
    single: list[tuple[Step, ...]] = []
    i = 0
    while i < len(groups):
        period, times = _repetition(groups, i)
        if times == 1:
            single.append(groups[i])
            i += 1
            continue
        blocks += [_block([group], 1, [group]) for group in single]
        single.clear()
        stop = i + period * times
        blocks.append(_block(groups[i : i + period], times, groups[stop - period : stop]))
        i = stop
    return (*blocks, *(_block([group], 1, [group]) for group in single))


def _block(groups: Groups, times: int, last: Groups) -> Block:
    return Block(tuple(groups), times, tuple(step.name for group in last for step in group))


def _repetition(groups: Groups, start: int) -> tuple[int, int]:
    """Period and number of repetitions, from `start` on, that fold most groups; the shortest such period."""
    looks = [_look(group) for group in groups[start:]]
    best = (1, 1)
    for period in range(1, len(looks) // 2 + 1):
        times = 1
        while looks[times * period : (times + 1) * period] == looks[:period]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _look(group: tuple[Step, ...]) -> list[Any]:
    """What two groups must share to be the same: everything but names."""
    return [{**asdict(step), "name": None} for step in group]
