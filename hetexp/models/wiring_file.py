"""A wiring as a short YAML file that a user can read and correct: modules, streams, sources, and what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from hetexp.errors import ConfigError
from hetexp.files import atomic_write


@dataclass(frozen=True)
class WiredStep:
    """One call of an attention module: stream `query` attends stream `key`.

    Attributes:
        module: the module's path in the model.
        query: stream of the rows.
        key: stream of the columns.
        call: which call of the module it is, from 1.
    """

    module: str
    query: str
    key: str
    call: int = 1

    @property
    def name(self) -> str:
        """The step's."""
        return self.module if self.call == 1 else f"{self.module}:{self.call}"


@dataclass(frozen=True)
class WiredSource:
    """What attribution is reported for: tokens of a stream.

    Attributes:
        stream: the stream.
        tokens: a token, or a range as in Python's slices, e.g. "1:" without the first.
        grid: height and width of an image's patches, row by row; None for a sequence.
        patch: pixels of a patch's side, which says where the grid lies in the picture.
    """

    stream: str
    tokens: str = ":"
    grid: tuple[int, int] | None = None
    patch: int | None = None


WiredGroup = tuple[WiredStep, ...]


@dataclass(frozen=True)
class Wiring:
    """What the attention modules of a model connect.

    Attributes:
        encoder: self-attention of single sources, before anything mixes.
        fusion: the rest in groups; steps of one group read the streams as they were before any of them.
        sources: name -> what it is of a stream.
        readouts: stream -> the token that a prediction is read from, or a range with one for each row of logits.
        output: field of the model's output that holds the logits; None where the output is the tensor itself.
        causal: a stream whose tokens attend none after themselves, if the prediction is read from it.
        notes: lines of comment, e.g. what a proposal is not sure of.
        shapes: step's name -> a comment on its shape.

    Raises:
        ConfigError: for a wiring that cannot be, whatever the model.
    """

    encoder: tuple[WiredStep, ...]
    fusion: tuple[WiredGroup, ...]
    sources: Mapping[str, WiredSource]
    readouts: Mapping[str, str]
    output: str | None = None
    causal: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    shapes: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        streams = self.streams
        if not streams:
            raise ConfigError("this wiring has no step: list the attention modules under encoder and fusion")
        known = f"its steps have {', '.join(streams)}"
        for name, source in self.sources.items():
            if source.stream not in streams:
                raise ConfigError(f"source {name!r} is a part of stream {source.stream!r}, which no step has: {known}")
        for stream in (*self.readouts, *([self.causal] if self.causal else [])):
            if stream not in streams:
                raise ConfigError(f"a prediction is read from stream {stream!r}, which no step has: {known}")
        if not self.sources or not self.readouts:
            raise ConfigError(
                f"a wiring needs sources and readouts, e.g. sources: {{text: {{stream: {streams[0]}}}}} and readouts: "
                f"{{{streams[0]}: 0}}; {known}"
            )
        if self.causal and self.causal not in self.readouts:
            raise ConfigError(f"causal names stream {self.causal!r}, which no prediction is read from: leave it null")
        held = {stream: [n for n, s in self.sources.items() if s.stream == stream] for stream in streams}
        for step in self.encoder:
            if len(held[step.query]) > 1:
                raise ConfigError(
                    f"stream {step.query!r} holds the sources {', '.join(held[step.query])}, which mix in step "
                    f"{step.name}: move it from encoder to fusion"
                )
            if step.query != step.key:
                raise ConfigError(
                    f"step {step.name} lets {step.query!r} attend {step.key!r}, and encoder holds self-attention "
                    "before anything mixes: move it to fusion"
                )
        names = [step.name for step in self.steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"step {twice[0]} is listed twice: every observed map is used once (call: 2 is another)")

    @property
    def steps(self) -> list[WiredStep]:
        """All steps, first to last."""
        return [*self.encoder, *(step for group in self.fusion for step in group)]

    @property
    def streams(self) -> list[str]:
        """The streams that the steps connect."""
        return list(dict.fromkeys(name for step in self.steps for name in (step.query, step.key)))

    def __str__(self) -> str:
        """The wiring as YAML with the shapes that were observed."""
        lines = [f"# {note}" for note in self.notes]
        lines += [f"output: {self.output or 'null'}  # where the model's output holds the logits; null: it is a tensor"]
        lines += ["sources:"]
        for name, source in self.sources.items():
            picture = "" if source.grid is None else f", grid: [{source.grid[0]}, {source.grid[1]}]"
            picture += "" if source.patch is None else f", patch: {source.patch}"
            lines.append(f'  {name}: {{stream: {source.stream}, tokens: "{source.tokens}"{picture}}}')
        lines += ["readouts:  # stream: token that is read, or a range with one for each row of the logits"]
        lines += [f'  {stream}: "{tokens}"' for stream, tokens in self.readouts.items()]
        lines += [f"causal: {self.causal or 'null'}  # stream that is read, if its tokens attend none after themselves"]
        lines += ["encoder:  # self-attention before sources mix" if self.encoder else "encoder: []"]
        lines += [f"  - {self._line(step)}" for step in self.encoder]
        lines += [
            "fusion:  # the rest; steps in one list read the streams as they were before it"
            if self.fusion
            else "fusion: []"
        ]
        for group in self.fusion:
            if len(group) == 1:
                lines.append(f"  - {self._line(group[0])}")
                continue
            lines += [f"  {'- -' if i == 0 else '  -'} {self._line(step)}" for i, step in enumerate(group)]
        return "\n".join(lines) + "\n"

    def _line(self, step: WiredStep) -> str:
        call = "" if step.call == 1 else f", call: {step.call}"
        shape = self.shapes.get(step.name)
        text = f"{{module: {step.module}{call}, query: {step.query}, key: {step.key}}}"
        return text if shape is None else f"{text}  # {shape}"

    def save(self, path: str | Path) -> Path:
        """Write the wiring as YAML."""
        return atomic_write(Path(path), str(self).encode())

    @classmethod
    def load(cls, path: str | Path) -> Wiring:
        """The wiring of a YAML file.

        Raises:
            ConfigError: for a file that is missing or damaged, or a wiring that cannot be.
        """
        try:
            found = OmegaConf.to_container(OmegaConf.load(path))
        except OSError as error:
            raise ConfigError(f"there is no wiring {path}: write one with hetexp.propose(model, inputs)") from error
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"wiring {path} is no YAML: {error}") from error
        try:
            return _parse(found)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ConfigError(f"wiring {path} is not understood: {error}; compare it with a proposed one") from error


_KEYS = ("output", "sources", "readouts", "causal", "encoder", "fusion")


def _parse(found: Any) -> Wiring:
    unknown = sorted(set(found) - set(_KEYS))
    if unknown:
        raise ConfigError(f"a wiring has no key {', '.join(map(str, unknown))}: it has {', '.join(_KEYS)}")
    sources = {}
    for name, given in (found.get("sources") or {}).items():
        grid = given.get("grid")
        sources[str(name)] = WiredSource(
            **{
                **given,
                "tokens": str(given.get("tokens", ":")),
                "grid": None if grid is None else (int(grid[0]), int(grid[1])),
            }
        )
    groups = [g if isinstance(g, Sequence) else [g] for g in found.get("fusion") or []]
    return Wiring(
        tuple(WiredStep(**step) for step in found.get("encoder") or []),
        tuple(tuple(WiredStep(**step) for step in group) for group in groups),
        sources,
        {str(stream): str(tokens) for stream, tokens in (found.get("readouts") or {}).items()},
        found.get("output"),
        found.get("causal"),
    )


def tokens_of(text: str, n: int, what: str) -> range:
    """The tokens of a stream of `n` that a token or a range names.

    Raises:
        ConfigError: if there are none such.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None and -n <= parts[0] < n:
        return range(parts[0] % n, parts[0] % n + 1)
    if len(parts) == 2 and len(range(n)[slice(*parts)]) > 0:
        return range(n)[slice(*parts)]
    raise ConfigError(
        f'{what} names tokens "{text}" of a stream of {n}: give a token such as 0 or -1, or a range as 1:'
    )
