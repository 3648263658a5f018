"""A model of any architecture behind a wiring that the user proposes, reads and corrects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.errors import ConfigError, InputError, some
from hetexp.models.finite import require_finite
from hetexp.models.matching import last_read, logits_of, matched, mixed, sizes_of
from hetexp.models.observe import hooked
from hetexp.models.observed_model import ObservedModel
from hetexp.models.observed_run import Inputs, Place, Question, Run
from hetexp.models.survey import Survey, modules_of
from hetexp.models.trace import Target
from hetexp.models.wiring import Wire
from hetexp.models.wiring_file import WiredStep, Wiring, tokens_of


class WiredModel(ObservedModel):
    """Any `nn.Module` whose attention a wiring describes; an `Adapter` for one input at a time, without padding.

    Every pass is compared with the wiring: what was observed and is not wired, or the other way round, is an error.

    Args:
        model: it is set to eval mode.
        wiring: what its attention modules connect.

    Raises:
        ConfigError: for a module that the model does not have.
    """

    kind = "text"  # its explanation is drawn source by source

    def __init__(self, model: nn.Module, wiring: Wiring) -> None:
        super().__init__(model)
        self.name = type(model).__name__
        self.wiring = wiring
        self.sources = tuple(wiring.sources)
        self.causal = wiring.causal  # type: ignore[misc]
        self._is_read = False  # whether the readouts were compared with a pass

        modules = modules_of(model)
        absent = [step.module for step in wiring.steps if step.module not in modules]
        if absent:
            raise ConfigError(f"{self.name} has no module {some(absent)}: compare the wiring with a proposed one")

        def wire(step: WiredStep) -> Wire:
            return Wire(step.name, modules[step.module], step.query, step.key)

        self._entrances = {source.stream: _entrance(wiring, source.stream) for source in wiring.sources.values()}
        self.feature_names: tuple[str, ...] = () if None in self._entrances.values() else ("embedding",)
        self._encoder = [wire(step) for step in wiring.encoder]
        self._fusion = [[wire(step) for step in group] for group in wiring.fusion]

    @property
    def labels(self) -> dict[int, str]:
        """What the logits stand for, if the model's configuration says it; the library's placeholders say nothing."""
        names: Mapping[int, str] = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        return {int(i): str(name) for i, name in names.items() if name != f"LABEL_{i}"}

    @property
    def preparation(self) -> dict[str, Any]:
        return super().preparation | {"wiring": str(self.wiring)}

    # -- the wiring --------------------------------------------------------------------------------------------

    def encoder_wires(self) -> Sequence[Wire]:
        return self._encoder

    def fusion_wires(self) -> Sequence[Wire]:
        return [wire for group in self._fusion for wire in group]

    def fusion_groups(self) -> Sequence[Sequence[Wire]]:
        return self._fusion

    def first_layers(self) -> Mapping[str, nn.Module]:
        """The layers that hold the first attention of the streams with sources, where there are such."""
        return {stream: self.model.get_submodule(path) for stream, path in self._entrances.items() if path}

    def batch_size(self, inputs: Inputs) -> int:
        return 1

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        return logits_of(self.model(**inputs), self.wiring.output)[None], {}

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        return {s: torch.ones(1, n, dtype=torch.bool) for s, n in notes["sizes"].items()}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        return {name: self._place(name, run.valid) for name in self.sources}

    def _place(self, name: str, valid: Mapping[str, Tensor]) -> Place:
        source = self.wiring.sources[name]
        found = tokens_of(source.tokens, valid[source.stream].shape[1], f"source {name!r}")
        if source.grid is not None and math.prod(source.grid) != len(found):
            raise ConfigError(
                f"source {name!r} has a grid of {source.grid[0]} × {source.grid[1]} and {len(found)} tokens "
                f'("{source.tokens}" of {valid[source.stream].shape[1]}): correct one of them'
            )
        extent = None
        if source.grid is not None and source.patch is not None:
            extent = (source.grid[0] * source.patch, source.grid[1] * source.patch)
        return Place(source.stream, torch.tensor(found), source.grid or (len(found),), extent=extent)

    def row(self, run: Run, item: int, target: Target) -> int:
        rows = run.logits.shape[1]
        if target.query is None:
            if rows > 1 and self.causal is None:
                raise InputError(f"{self.name} has {rows} rows of logits: name one, Logit(class, query=row)")
            return rows - 1
        if not 0 <= target.query < rows:
            raise InputError(f"row {target.query} does not exist: {self.name} has {rows} rows of logits")
        return target.query

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        return {s: [self._token(s, row, run) for row in question.rows] for s in self.wiring.readouts}

    def _token(self, stream: str, row: int, run: Run) -> int:
        rows = run.logits.shape[1]
        found = tokens_of(self.wiring.readouts[stream], run.valid[stream].shape[1], f"the readout of {stream!r}")
        if len(found) not in (1, rows):
            raise ConfigError(
                f'the readout of {stream!r} names {len(found)} tokens ("{self.wiring.readouts[stream]}") for {rows} '
                "rows of logits: name one token, or one for each row"
            )
        return found[row if len(found) > 1 else 0]

    # -- a pass ------------------------------------------------------------------------------------------------

    def _observed(self, inputs: Inputs, embedding: bool) -> Run:
        batch = self.placed(inputs)
        survey = Survey(self.model)
        embedded: dict[str, Tensor] = {}
        entering = _entering(self.first_layers(), embedded) if embedding else nullcontext()
        with entering, survey.watching(self.model):
            logits, notes = self.run(batch)
            require_finite(self.model, logits, inputs=batch, again=partial(self.run, batch))
        seen = matched(self.wiring, survey.calls)
        sizes = sizes_of(self.wiring, seen)
        for stream, x in embedded.items():
            if x.shape[1] != sizes[stream]:
                raise ConfigError(
                    f"{self._entrances[stream]} is entered by {x.shape[1]} tokens, and stream {stream!r} has "
                    f"{sizes[stream]}: choose a method that reads maps"
                )
        run = Run(inputs, logits, seen, embedded, self.valid(inputs, {**notes, "sizes": sizes}), notes)
        if not self._is_read:
            self._check_readouts(run)
            self._is_read = True
        return run

    def _check_readouts(self, run: Run) -> None:
        """The last steps of the streams that are read are read at the tokens that the wiring names."""
        rows = sorted({0, run.logits.shape[1] - 1})
        for row in rows:
            reached = last_read(self.wiring.steps, run.seen, mixed(run.logits[0, row]))
            named = {stream: self._token(stream, row, run) for stream in self.wiring.readouts}
            for stream, tokens in reached.items():
                if tokens == [named.get(stream)]:
                    continue
                says = f"token {named[stream]}" if stream in named else "none"
                raise ConfigError(
                    f"row {row} of the logits is read from {_listed(tokens)} of stream {stream!r}, and the wiring's "
                    f"readouts name {says}: correct them"
                )
            absent = [stream for stream in named if stream not in reached]
            if absent:
                raise ConfigError(
                    f"readouts name stream {absent[0]!r}, and row {row} of the logits is not read from it"
                )


def _entrance(wiring: Wiring, stream: str) -> str | None:
    """Path of the layer with a stream's first attention: what is numbered; None where no such layer holds it."""
    first = next((step.module for step in wiring.steps if step.query == stream), "")
    layer = re.match(r"(.*\.\d+|\d+)\.", first)
    return None if layer is None else layer[1]


@contextmanager
def _entering(layers: Mapping[str, nn.Module], embedded: dict[str, Tensor]) -> Iterator[None]:
    """Keep the tokens that enter layers as [1, N, C], in whichever form these take them; the graph begins there."""

    def keep(stream: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if stream in embedded:  # a layer that is run again
                return None
            name = "" if args else next(key for key, x in kwargs.items() if isinstance(x, Tensor))
            x = args[0] if args else kwargs[name]
            own = x.reshape(1, -1, x.shape[-1])
            embedded[stream] = own if own.requires_grad else own.detach().requires_grad_()
            given = embedded[stream].reshape(x.shape)
            return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, name: given})

        return hook

    with hooked(layer.register_forward_pre_hook(keep(s), with_kwargs=True) for s, layer in layers.items()):
        yield


def _listed(tokens: Sequence[int]) -> str:
    shown = ", ".join(map(str, tokens[:6])) + (", …" if len(tokens) > 6 else "")
    return f"token{'s' if len(tokens) > 1 else ''} {shown}"


def wrap(model: nn.Module, wiring: Wiring | str | Path) -> WiredModel:
    """A model of any architecture, ready for `hetexp.explain` and `hetexp.structure`.

    Args:
        model: any module whose forward pass takes tensors by name.
        wiring: from `hetexp.propose`, or the path of a YAML file.

    Raises:
        ConfigError: for a wiring that does not fit; what only a pass can tell is checked in the first one.
    """
    return WiredModel(model, wiring if isinstance(wiring, Wiring) else Wiring.load(wiring))
