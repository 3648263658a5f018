"""What a model must offer to be explained: the interfaces that experiments are written against.

An adapter wraps one model. `Adapter` is all that attribution needs; `Detector` and `Answerer` add what the experiments
of detection and of visual question answering ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from PIL.Image import Image
from torch import Tensor

from hetexp.models.trace import AttentionTrace, Target


class Adapter(Protocol):
    """A model whose attention can be traced.

    Attributes:
        name: the architecture's name, as in `hetexp.models.registry`.
        sources: streams that attribution is reported for.
        feature_names: intermediate features that a method may read, the default first.
        model: the Hugging Face model itself.
    """

    name: str
    sources: tuple[str, ...]
    feature_names: tuple[str, ...]
    model: Any

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of weights and attribution."""
        ...

    @property
    def labels(self) -> Mapping[int, str]:
        """What the logits stand for: class or answer index -> name; empty if unknown."""
        ...

    @property
    def preparation(self) -> Mapping[str, Any]:
        """JSON-serialisable account of what decides relevance besides weights: preprocessing, precision."""
        ...

    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        """One trace per item of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: the Hugging Face model's own keyword tensors.
            targets: per item its targets; one without a query stands for every kept one.
            features: names of intermediate features to keep with their gradients ("default" is the first of
                `feature_names`); without any the backward pass ends at the first attention.

        Raises:
            ConfigError: for a feature that the model does not have.
            InputError: for a target or an input that does not fit.
        """
        ...


@dataclass(frozen=True)
class Detections:
    """What a detector predicts for one image, a row per object query.

    Attributes:
        logits: class logits, without a "no object" class [Q, classes].
        scores: probability of the best class [Q].
        labels: index of the best class [Q].
        boxes: centre x, centre y, width, height, relative to the image [Q, 4].
    """

    logits: Tensor
    scores: Tensor
    labels: Tensor
    boxes: Tensor


class Detector(Adapter, Protocol):
    """A detector of objects with an image as its source."""

    score_threshold: float  # queries whose best class is more probable are kept

    def preprocess(self, image: Image) -> Tensor:
        """Resize and normalise one RGB image to [3, H, W] on the CPU; safe to call from another thread."""
        ...

    def collate(self, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad images [3, H, W] at the right and bottom to one batch of model inputs on the model's device."""
        ...

    def prepare(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """`preprocess` and `collate` in one."""
        ...

    def detect(self, inputs: Mapping[str, Tensor]) -> list[Detections]:
        """Predictions per image, padding handled as in `trace`."""
        ...


@dataclass(frozen=True)
class EncodedQuestion:
    """One question with its regions, as a model reads them, unpadded.

    Attributes:
        input_ids: token ids with the special tokens at both ends [T].
        features: region features [R, D].
        boxes: x1, y1, x2, y2 in units of the image's sides [R, 4].
        image: name of the image; questions of one image share its regions.
    """

    input_ids: Tensor
    features: Tensor
    boxes: Tensor
    image: str = ""


@runtime_checkable
class ReadsPictures(Protocol):
    """A model that cuts a picture into parts itself; its regions are these, not those of a file."""

    def regions_of(self, image: Image) -> tuple[Tensor, Tensor]:
        """Features [R, D] and boxes [R, 4] (x1, y1, x2, y2 in units of the image's sides) of an RGB picture's parts."""
        ...


class Answerer(Adapter, Protocol):
    """A model that answers a question about an image given as regions; its sources are "text" and "image".

    An image may be given as patches: these are regions of equal size (see `ReadsPictures`).
    """

    answers: list[str] | None  # answer strings in the order of the logits, if known

    @property
    def n_answers(self) -> int:
        """Answer logits of the model."""
        ...

    @property
    def feature_width(self) -> int:
        """Numbers per region that the model reads, its box left out."""
        ...

    def encode(self, question: str, features: Tensor, boxes: Tensor, image: str = "") -> EncodedQuestion:
        """Tokens and regions of one question.

        Raises:
            InputError: for a question without words, one that is too long, or features of another width.
        """
        ...

    def question_tokens(self, encoded: EncodedQuestion) -> list[str]:
        """The question's tokens as text, special ones included."""
        ...

    def offsets(self, question: str) -> list[tuple[int, int]]:
        """Character range of every token of a question; special tokens have the empty range (0, 0)."""
        ...

    def collate(self, questions: Sequence[EncodedQuestion]) -> dict[str, Tensor]:
        """One padded batch of model inputs; 0 marks padding in its masks."""
        ...

    def predict(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Answer logits [B, answers]; an item without any real region sees no image at all."""
        ...

    def encode_texts(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """What answering needs of each sequence of token ids [T], computed once however often it is answered from."""
        ...

    def embed_regions(self, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """What each pair of region features [R, D] and boxes [R, 4] gives before regions meet, a row per region.

        Rows may be left out: a region's row does not depend on which others are kept.
        """
        ...

    def encode_regions(self, embedded: Sequence[Tensor]) -> list[Tensor]:
        """What answering needs of each set of rows that `embed_regions` gave; a set may be empty."""
        ...

    def answer_parts(self, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        """Answer logits [B, answers] from encoded texts and regions; equals `predict` on the same inputs."""
        ...
