"""What the page asks of a model: pictures in, targets of predictions, relevance out; one view per kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from hetexp.errors import InputError
from hetexp.experiments.detection.explain import MOST_EXPLAINED, asked_for, by_probability
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.explain import best_answers, contrast, name_answers, regions_of
from hetexp.explanation import Explanation
from hetexp.models.protocols import Answerer, Detector
from hetexp.models.trace import Target
from hetexp.targets import BoxSide, Difference, Logit, RunnerUp, Second

Read = TypeVar("Read")  # what a model reads of a picture


@dataclass(frozen=True)
class Asked:
    """What is to be explained of a picture.

    Attributes:
        question: what is asked, of models that answer questions.
        target: "predicted" (its logit), "other" (the logit of another class or answer), "difference" (predicted minus
            another) or "box" (a side of the box).
        other: that other class or answer by index; None is the second best of each prediction.
        side: of the box.
    """

    question: str = ""
    target: str = "predicted"
    other: int | None = None
    side: str = "left"

    def of(self, predicted: int, query: int | None) -> Target:
        """The target for one prediction.

        Raises:
            InputError: for an unknown target.
        """
        if self.target == "predicted":
            return Logit(predicted, query)
        if self.target == "other":
            return Second(query) if self.other is None else Logit(self.other, query)
        if self.target == "difference":
            return RunnerUp("difference", query) if self.other is None else Difference(predicted, self.other, query)
        if self.target == "box":
            return BoxSide(self.side, query)
        raise InputError(f"unknown target {self.target!r}: choose predicted, other, difference or box")


@dataclass(frozen=True)
class Subject:
    """One input of a model with its predictions.

    Attributes:
        inputs: as `Adapter.trace` takes them, a batch of one.
        predictions: class or answer, and object query, of every prediction that can be explained.
        shown: what the page says of it besides relevance, JSON-serialisable.
        described: fields of its `Explanation`.
    """

    inputs: Mapping[str, Tensor]
    predictions: Sequence[tuple[int, int | None]]
    shown: Mapping[str, Any] = field(default_factory=dict)
    described: Mapping[str, Any] = field(default_factory=dict)


class View(ABC, Generic[Read]):
    """How the page sees the models of a kind.

    Args:
        session: of the run, with its model.
    """

    kind: str
    targets: tuple[str, ...]

    def __init__(self, session: Session) -> None:
        self.session = session

    @abstractmethod
    def read(self, picture: Image, name: str) -> Read:
        """What the model reads of an RGB picture; `name` is that of a scene of the data, "" for a user's own."""

    @abstractmethod
    def subject(self, read: Read, question: str) -> Subject:
        """The input made of a picture and a question, and what the model predicts for it.

        Raises:
            InputError: for a question that does not fit, or a picture without any detection.
        """

    @abstractmethod
    def relevance(self, explanation: Explanation) -> dict[str, Tensor]:
        """What is drawn of an explanation of one method: name -> values per prediction [k, ...]."""


class DetectorView(View[Mapping[str, Tensor]]):
    """Detections of a picture, each with its map."""

    kind = "detection"
    targets = ("predicted", "other", "difference", "box")

    def read(self, picture: Image, name: str) -> Mapping[str, Tensor]:
        adapter: Detector = self.session.adapter
        return adapter.prepare([picture])

    def subject(self, read: Mapping[str, Tensor], question: str) -> Subject:
        if question:
            raise InputError("this model detects objects and is asked no question: leave it out")
        adapter: Detector = self.session.adapter
        (found,) = adapter.detect(read)
        kept = asked_for(by_probability(adapter, found), adapter, None)
        queries = [row.query for row in kept[:MOST_EXPLAINED] if row.query is not None]
        return Subject(read, [(int(found.labels[q]), q) for q in queries], {"detected": len(kept)})

    def relevance(self, explanation: Explanation) -> dict[str, Tensor]:
        (streams,) = explanation.item(0).relevance.values()
        return {"image": streams["image"]}


class AnswererView(View[tuple[Tensor, Tensor]]):
    """The answer to a question, with the relevance of its words and of the picture's regions."""

    kind = "vqa"
    targets = ("predicted", "other", "difference")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        name_answers(session.cfg, session.adapter)

    def read(self, picture: Image, name: str) -> tuple[Tensor, Tensor]:
        return regions_of(self.session.cfg, self.session.adapter, picture, name)

    def subject(self, read: tuple[Tensor, Tensor], question: str) -> Subject:
        if not question.strip():
            raise InputError("type a question about the picture, such as: is there a zebra?")
        adapter: Answerer = self.session.adapter
        encoded = adapter.encode(question, *read)
        inputs = adapter.collate([encoded])
        logits = adapter.predict(inputs)[0].double().cpu()
        order = logits.argsort(descending=True).tolist()
        words, answers = adapter.question_tokens(encoded), best_answers(adapter, logits)
        shown = {
            "question": question,
            "words": words,
            "special": [start == end for start, end in adapter.offsets(question)],
            "regions": read[1].tolist(),
            "answers": [a | {"index": i} for a, i in zip(answers, order, strict=False)],
            "contrast": contrast(adapter, order),
        }
        described = {"question": question, "words": words, "regions": read[1], "answers": answers}
        return Subject(inputs, [(order[0], None)], shown, described)

    def relevance(self, explanation: Explanation) -> dict[str, Tensor]:
        (streams,) = explanation.relevance.values()
        return {source: streams[source] for source in ("text", "image")}


VIEWS: dict[str, type[View[Any]]] = {view.kind: view for view in (DetectorView, AnswererView)}


def explained(subject: Subject, explanation: Explanation) -> Explanation:
    """The explanation on the CPU, with what is known of its subject."""
    cpu = {
        m: {s: x.detach().to("cpu", torch.float32) for s, x in by.items()} for m, by in explanation.relevance.items()
    }
    return replace(explanation, relevance=cpu, multiscale={}, points=None, **subject.described)
