"""What users of the page look at: their pictures, the traces taken of them, and relevance read from these when asked.

Every picture gets a name that cannot be guessed, and everything computed of it is kept under that name, so users never
see each other's. One trace serves all methods: it is taken once for a target and holds what the methods without
further passes read. Relevance is computed for one prediction when it is asked for, and kept: a method of large maps
takes seconds for all predictions of a picture, and a fraction of one for that which is looked at.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from hetexp.api import collect, describe_rows
from hetexp.attribution.attribute import attribute, observe
from hetexp.attribution.method import Method, NeedsPasses
from hetexp.attribution.passes import with_passes
from hetexp.errors import ConfigError, HetexpError, InputError
from hetexp.evaluation.masks import finite_maps, segment, to_uint8
from hetexp.evaluation.thresholds.otsu import OTSU, otsu_thresholds
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.session import Session
from hetexp.explanation import Explanation, Row
from hetexp.models.trace import AttentionTrace
from hetexp.serve.choices import Choice, Offered
from hetexp.serve.kept import Kept
from hetexp.serve.pictures import preview
from hetexp.serve.views import VIEWS, Asked, Subject, explained

log = logging.getLogger("hetexp")

KEPT_BYTES = 512 * 2**20  # of pictures, traces and relevance of all users together


class Gone(HetexpError):
    """A picture that is not kept: it was never given, or others have been used since."""


@dataclass(frozen=True)
class Picture:
    """A user's picture: not the picture itself, but what the model reads of it and a small copy to look at."""

    name: str
    size: tuple[int, int]
    preview: bytes
    read: Any


@dataclass(frozen=True)
class Found:
    """Relevance of one method for one prediction of a subject.

    Attributes:
        spec: the method.
        rows: every prediction with its target, in the order of their numbers.
        explanation: relevance of that one, [1, ...].
        otsu: threshold of its map, a grey level; None where there is no image grid.
        pass_seconds: spent on the model for this answer; 0 where the trace was there.
        method_seconds: spent on the method; 0 where its relevance was there.
    """

    spec: MethodSpec
    rows: list[Row]
    explanation: Explanation
    otsu: float | None
    pass_seconds: float
    method_seconds: float


class Play:
    """The model, and what is kept for the users of the page; every method may be called from several threads.

    Args:
        session: of the run.
        byte_limit: of what is kept.

    Raises:
        ConfigError: for a model that is neither a detector nor answers questions, and for a threshold strategy other
            than Otsu's.
    """

    def __init__(self, session: Session, byte_limit: int = KEPT_BYTES) -> None:
        if session.kind not in VIEWS:
            raise ConfigError(
                f"task=serve shows models of the kinds {' and '.join(VIEWS)}, and {session.adapter.name} is of the "
                f"kind {session.kind!r}: explain its inputs with task=explain"
            )
        if session.strategy != OTSU:
            raise ConfigError(
                f"task=serve outlines masks at multiples of Otsu's threshold, not by "
                f"threshold.strategy={session.strategy.name}: leave it out, or use task=explain"
            )
        self.session = session
        self.view = VIEWS[session.kind](session)
        self.offered = Offered(session)
        self.kept = Kept(byte_limit)
        self._model = Lock()  # observing a model changes how it runs, for all threads

    def show(self, image: Image, name: str = "", before: str | None = None) -> tuple[str, Picture]:
        """Take an RGB picture in; what was kept of the picture `before` is let go.

        Returns:
            its secret name, and the picture.

        Raises:
            InputError: for a picture that the model cannot read.
        """
        with self._model:
            read = self.view.read(image, name)
        picture = Picture(name, image.size, preview(image), read)
        if before:
            self.kept.forget((before,))
        token = secrets.token_urlsafe(16)
        self.kept.put((token,), picture)
        return token, picture

    def picture(self, token: str) -> Picture:
        """The picture of that secret name.

        Raises:
            Gone: if it is not kept.
        """
        found: Picture | None = self.kept.get((token,))
        if found is None:
            raise Gone("this picture is no longer kept here: choose it again")
        return found

    def subject(self, token: str, question: str) -> Subject:
        """A picture with a question ("" for detectors), and what the model predicts for it.

        Raises:
            Gone: if the picture is not kept.
            InputError: for a question that does not fit, or a picture without any detection.
        """
        picture = self.picture(token)
        key = (token, "subject", question)
        subject: Subject | None = self.kept.get(key)
        if subject is None:
            with self._model, torch.no_grad():
                subject = self.view.subject(picture.read, question)
            self.kept.put(key, subject)
        return subject

    def explain(self, token: str, asked: Asked, choice: Choice, row: int = 0) -> Found:
        """Relevance of one method for one prediction of a picture.

        Raises:
            Gone: if the picture is not kept.
            ConfigError: for a method that does not fit the model.
            InputError: for a question, a target, a method or a prediction that does not fit.
        """
        subject = self.subject(token, asked.question)
        count = len(subject.predictions)
        if not 0 <= row < count:
            raise InputError(f"prediction {row} does not exist: this picture has predictions 0 to {count - 1}")
        spec = self.offered.chosen(choice)
        key = (token, asked, spec.name, row)
        found: Found | None = self.kept.get(key)
        if found is not None:
            return replace(found, pass_seconds=0.0, method_seconds=0.0)
        trace, pass_seconds = self._trace(token, asked, subject, spec.method)
        start = time.perf_counter()
        explanation = explained(subject, self._relevance(trace, spec, row))
        otsu = _threshold(explanation)
        method_seconds = time.perf_counter() - start
        found = Found(
            spec, describe_rows(trace, self.session.adapter.labels), explanation, otsu, pass_seconds, method_seconds
        )
        self.kept.put(key, found)
        return found

    def mask(self, found: Found, scale: float, size: tuple[int, int]) -> Tensor:
        """The map binarised by Otsu's threshold times `scale`, bool [H, W] of `size` (width, height).

        Raises:
            InputError: for a model without an image grid, or a scale that is not positive.
        """
        cfg, explanation = self.session.cfg.threshold, found.explanation.item(0)
        maps = explanation.relevance[found.spec.name]["image"]
        (extent,) = explanation.extents
        if extent is None or maps.ndim != 3:
            raise InputError("masks need relevance on an image grid, and this model's image tokens are regions")
        return segment(finite_maps(maps)[0], scale, extent, size[::-1], cfg.upsample, tie=cfg.tie)[0]

    def _trace(self, token: str, asked: Asked, subject: Subject, method: Method) -> tuple[AttentionTrace, float]:
        """The trace of these targets, with the further passes that a method needs, and the seconds these took."""
        key = (token, "trace", asked)
        adapter = self.session.adapter
        trace: AttentionTrace | None = self.kept.get(key)
        with self._model:
            start, kept = time.perf_counter(), trace
            if trace is None:
                targets = [asked.of(predicted, query) for predicted, query in subject.predictions]
                (trace,) = observe(adapter, subject.inputs, [targets], self.offered.from_one_trace)
                self.kept.put(key, trace)
            missing = [p for p in method.passes if p not in trace.passes] if isinstance(method, NeedsPasses) else []
            if missing:
                (trace,) = with_passes(adapter, subject.inputs, [trace], missing)
                self.kept.put(key, trace)
            return trace, time.perf_counter() - start if trace is not kept else 0.0

    def _relevance(self, trace: AttentionTrace, spec: MethodSpec, row: int) -> Explanation:
        # Only where gradients are still to be found is there more to do than to read the trace.
        with nullcontext() if trace.deferred is None else self._model:
            one, table = trace.slice(row, row + 1), {spec.name: spec.method}
            return collect(self.session.adapter, [one], [attribute(one, table)], table)


def _threshold(explanation: Explanation) -> float | None:
    (streams,) = explanation.item(0).relevance.values()
    if streams["image"].ndim != 3:  # regions, which have no grid
        return None
    return float(otsu_thresholds(to_uint8(finite_maps(streams["image"])[0]))[0])
