"""Models of text, sound and pictures that run as the library runs them, observed: a wiring says what they connect.

Padding is left out of every map, gradient and feature: a padded item equals the single one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetexp.errors import InputError
from hetexp.models.finite import require_finite
from hetexp.models.gradients import GRADIENT_BUDGET, batched_gradients
from hetexp.models.observe import frozen, resolve_features
from hetexp.models.observed_run import Inputs, Place, Question, Run, entering, lanes_of
from hetexp.models.processed import ProcessedModel
from hetexp.models.trace import AttentionTrace, Features, Group, Layout, Target, View, reads_box
from hetexp.models.watch import Watch
from hetexp.models.wiring import Wire, step

Gradients = Mapping[str, Tensor | None]


class ObservedModel(ProcessedModel, ABC):
    """A model of the library behind a wiring; an `Adapter`.

    Args:
        model: it is set to eval mode; any attention implementation does.
        processor: its tokenizer or processor; only `prepare` and `token_texts` need it.
    """

    sources: tuple[str, ...]
    feature_names: tuple[str, ...] = ("embedding",)
    kind: ClassVar[str]  # what its explanations are of
    causal: ClassVar[str | None] = None  # see `AttentionTrace`

    # -- the wiring --------------------------------------------------------------------------------------------

    @abstractmethod
    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of single sources, in the order in which the model runs it."""

    @abstractmethod
    def fusion_wires(self) -> Sequence[Wire]:
        """What follows, first to last."""

    def fusion_groups(self) -> Sequence[Sequence[Wire]]:
        """What follows, in groups of steps that read the streams as they were before any of them."""
        return [[wire] for wire in self.fusion_wires()]

    @abstractmethod
    def first_layers(self) -> Mapping[str, nn.Module]:
        """Stream with sources -> the layer that its embedded tokens enter."""

    @abstractmethod
    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        """The library's own forward pass: logits [B, rows, classes], and what to note of it."""

    @abstractmethod
    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        """Stream -> which tokens are no padding, bool [B, N], on the CPU."""

    @abstractmethod
    def places(self, run: Run, item: int) -> dict[str, Place]:
        """Where each source of an item lies."""

    @abstractmethod
    def row(self, run: Run, item: int, target: Target) -> int:
        """The row of logits that a target reads.

        Raises:
            InputError: for a query that does not exist.
        """

    @abstractmethod
    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        """Stream -> the token that every target's row of logits is computed from, its position as the model runs it."""

    def questions(self, run: Run, targets: Sequence[Sequence[Target]]) -> list[Question]:
        """What to explain, a trace each."""
        found = []
        for item, own in enumerate(targets):
            rows = tuple(self.row(run, item, target) for target in own)
            scalars = tuple(target(run.logits[item, row]) for target, row in zip(own, rows, strict=True))
            found.append(Question(tuple(own), rows, scalars, item, dict.fromkeys(run.valid, item)))
        return found

    def outputs(self, run: Run, question: Question) -> dict[str, Any]:
        """What a trace tells of the prediction."""
        return {"logits": run.logits[question.item].detach()}

    # -- traces ------------------------------------------------------------------------------------------------

    def batch_size(self, inputs: Inputs) -> int:
        """Items that targets are given for."""
        return len(next(iter(inputs.values())))

    def check_targets(self, batch: Inputs, targets: Sequence[Sequence[Target]]) -> None:
        """Refuse targets that are not one list for every item.

        Raises:
            InputError: naming both numbers.
        """
        if len(targets) != self.batch_size(batch):
            raise InputError(f"{len(targets)} lists of targets for {self.batch_size(batch)} items: give one to each")

    def trace(
        self,
        inputs: Inputs,
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        """Attention traces of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: the library model's own keyword tensors.
            targets: per item its targets.
            features: "embedding" (tokens as they enter their first layer) to keep it with its gradients; without it
                the backward pass ends at the first attention.

        Raises:
            ConfigError: for a feature that the model does not have.
            InputError: for a target or an input that does not fit.
        """
        wanted = resolve_features(features, self.feature_names)
        if any(reads_box(target) for own in targets for target in own):
            raise InputError(f"a target is a box, and {self.name} predicts none: choose a target of logits")
        given = self.completed(inputs)
        self.check_targets(given, targets)
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            run = self._observed(given, bool(wanted))
            questions = self.questions(run, targets)
        lanes = lanes_of(questions)
        inspected = [*(seen.output for seen in run.seen.values()), *(run.embedded.values() if wanted else ())]
        one = sum(x.numel() * x.element_size() for x in inspected)
        if max((sum(len(q.scalars) for q in lane) for lane in lanes), default=0) * one <= GRADIENT_BUDGET:
            scalars = [[y for question in lane for y in question.scalars] for lane in lanes]
            found = self._gradients(run, scalars, wanted)
            first = {id(q): sum(len(p.scalars) for p in lane[:i]) for lane in lanes for i, q in enumerate(lane)}
            return [self._item(run, q, found, first[id(q)], wanted) for q in questions]
        return [self._deferred(run, question, wanted) for question in questions]

    def _deferred(self, run: Run, question: Question, wanted: Mapping[str, str]) -> AttentionTrace:
        def part(start: int, stop: int) -> AttentionTrace:
            some = question.part(start, stop)
            return self._item(run, some, self._gradients(run, [some.scalars], wanted, keep_graph=True), 0, wanted)

        return replace(part(0, 0), targets=question.targets, **self._rows(run, question), deferred=part)

    def _observed(self, inputs: Inputs, embedding: bool) -> Run:
        batch = self.placed(inputs)
        wired = (self.encoder_wires(), self.fusion_wires())
        parts = [[wire.name for wire in wires] for wires in wired]
        watch = Watch({wire.name: wire.module for wires in wired for wire in wires})
        embedded: dict[str, Tensor] = {}
        with entering(self.first_layers(), embedded, embedding), watch.watching(self.model):
            logits, notes = self.run(batch)
            require_finite(self.model, logits, inputs=batch, again=partial(self.run, batch))
        seen = {call.name: call for call in watch.calls}
        called = [call.name for call in watch.calls]
        in_order = [[name for name in called if name in part] for part in parts] == parts
        assert in_order, f"observed {called}, wired {parts}"
        return Run(inputs, logits, seen, embedded, self.valid(inputs, notes), notes)

    def _gradients(
        self, run: Run, scalars: Sequence[Sequence[Tensor]], wanted: Mapping[str, str], keep_graph: bool = False
    ) -> Gradients:
        """dy/dO of every step by head and, if wanted, dy/d(embedding) of every stream."""
        outputs = [seen.output for seen in run.seen.values()]
        found = batched_gradients(
            scalars, [*outputs, *(run.embedded.values() if wanted else ())], keep_graph=keep_graph
        )
        gradients: dict[str, Tensor | None] = {
            name: None if gradient is None else seen.by_head(gradient)
            for (name, seen), gradient in zip(run.seen.items(), found, strict=False)
        }
        return gradients | dict(zip(run.embedded, found[len(outputs) :], strict=bool(wanted)))

    def _item(
        self, run: Run, question: Question, gradients: Gradients, first: int, wanted: Mapping[str, str]
    ) -> AttentionTrace:
        k = len(question.targets)
        rows = {name: None if g is None else g[first : first + k] for name, g in gradients.items()}
        masks = {s: mask[question.members[s]] for s, mask in run.valid.items()}
        valid = {s: mask.nonzero().flatten().to(self.device) for s, mask in masks.items()}
        rank = {s: mask.cumsum(0) - 1 for s, mask in masks.items()}

        def groups(several: Iterable[Sequence[Wire]]) -> tuple[Group, ...]:
            return tuple(
                tuple(step(w, run.seen[w.name], rows[w.name], question.members[w.query], k, valid=valid) for w in wires)
                for wires in several
            )

        def features(stream: str) -> Features:
            x, gradient = run.embedded[stream][question.members[stream]].detach(), rows[stream]
            own = x.new_zeros(k, *x.shape) if gradient is None else gradient[:, question.members[stream]]
            return Features(x[valid[stream]], own[:, valid[stream]])

        places = self.places(run, question.item)
        views, layouts = {}, {}
        for source in self.sources:
            place = places[source]
            kept = masks[place.stream][place.tokens]
            index = torch.arange(math.prod(place.shape)) if place.index is None else place.index
            views[source] = View(place.stream, rank[place.stream][place.tokens[kept]].to(self.device))
            layouts[source] = Layout(place.shape, index[kept].to(self.device), place.extent)
        return AttentionTrace(
            sizes={s: len(v) for s, v in valid.items()},
            views=views,
            encoder=groups([wire] for wire in self.encoder_wires()),
            fusion=groups(self.fusion_groups()),
            targets=question.targets,
            layouts=layouts,
            features={asked: {s: features(s) for s in run.embedded} for asked in wanted},
            outputs=self.outputs(run, question),
            causal=self.causal,
            **self._rows(run, question),
        )

    def _rows(self, run: Run, question: Question) -> dict[str, Any]:
        """What a trace says of every target."""
        read = {}
        for stream, tokens in self.readouts(run, question).items():
            rank = run.valid[stream][question.members[stream]].cumsum(0) - 1
            read[stream] = rank[torch.tensor(tokens).long()]
        return {
            "readouts": {stream: tokens.to(self.device) for stream, tokens in read.items()},
            "queries": torch.tensor(question.rows, dtype=torch.long, device=self.device),
            "prefixes": None if self.causal is None else tuple((read[self.causal] + 1).tolist()),
        }
