"""What models that answer questions share, whatever runs them: their tokens, and the list of answers."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hetexp.errors import CheckpointError, InputError
from hetexp.models.checkpoints import readable
from hetexp.models.protocols import EncodedQuestion

log = logging.getLogger("hetexp")

ANSWERS = "label2ans.json"  # of a checkpoint's folder


class Answering(ABC):
    """The part of an `Answerer` that reads questions and names answers.

    Attributes:
        answers: answer strings in the order of the logits, if known.
    """

    model: Any
    answers: list[str] | None

    @property
    @abstractmethod
    def question_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; ConfigError where the model was built without."""

    @property
    @abstractmethod
    def n_answers(self) -> int:
        """Answer logits of the model."""

    @property
    @abstractmethod
    def feature_width(self) -> int:
        """Numbers per region that the model reads, its box left out."""

    @property
    def labels(self) -> dict[int, str]:
        """Answer index -> answer; empty without an answer list."""
        return dict(enumerate(self.answers or []))

    def encode(self, question: str, features: Tensor, boxes: Tensor, image: str = "") -> EncodedQuestion:
        """Tokens and regions of one question.

        Raises:
            InputError: for a question without words, one longer than the model's positions, or region features of
                another width than the model reads.
        """
        if features.shape[1] != self.feature_width:
            raise InputError(
                f"region features have {features.shape[1]} numbers, this checkpoint reads {self.feature_width}: use "
                "the features it was trained with"
            )
        tokenizer = self.question_tokenizer
        ids = list(tokenizer(question, verbose=False)["input_ids"])  # its own remark on length misleads here
        if set(ids) <= set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}:
            raise InputError(f"question {question!r} has no word besides special tokens: ask something")
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(
                f"question has {len(ids)} tokens, this model takes at most {limit}: shorten {question[:60]!r}..."
            )
        if set(ids) <= set(tokenizer.all_special_ids):
            _warn_of_unknown_words(question)
        tokens, dtype = torch.tensor(ids, dtype=torch.long), self.model.dtype
        return EncodedQuestion(tokens, features.to(dtype), boxes.to(dtype), image)

    def question_tokens(self, encoded: EncodedQuestion) -> list[str]:
        """The question's tokens as text, CLS and SEP included."""
        return list(self.question_tokenizer.convert_ids_to_tokens(encoded.input_ids.tolist()))

    def offsets(self, question: str) -> list[tuple[int, int]]:
        """Character range of every token of a question; CLS and SEP have the empty range (0, 0)."""
        return [
            tuple(pair) for pair in self.question_tokenizer(question, return_offsets_mapping=True)["offset_mapping"]
        ]


def answers_of(source: str, given: Sequence[str] | None, logits: int) -> list[str] | None:
    """The answers of a checkpoint: those given, else its folder's `label2ans.json`, else None.

    Args:
        source: the checkpoint.
        given: answer strings in the order of the logits.
        logits: how many answer logits the model has.

    Raises:
        CheckpointError: for a list of another length, or a file that is no list of strings.
    """
    path = Path(source, ANSWERS)
    if given is None and path.exists():
        with readable(str(path)):
            given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, list) or not all(isinstance(answer, str) for answer in given):
            raise CheckpointError(f"{path} must be a list of answer strings, in the order of the answer logits")
    if given is not None and len(given) != logits:
        raise CheckpointError(
            f"{len(given)} answers were given for {logits} answer logits of {source!r}: "
            "use the answer list this checkpoint was trained with"
        )
    return None if given is None else list(given)


@cache
def _warn_of_unknown_words(question: str) -> None:
    log.warning("no word of question %r is in this model's vocabulary: the answer rests on the image alone", question)
