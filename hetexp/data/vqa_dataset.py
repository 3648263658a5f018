"""What a question-answering experiment reads: questions, the answer vocabulary and the images' regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetexp.data.regions import RegionStore, open_regions
from hetexp.data.vqa import Question, draw, read_answers, read_questions
from hetexp.files import file_hash


@dataclass(frozen=True)
class VqaData:
    """Questions about images that are known by their regions.

    Attributes:
        questions: those of the experiment, in its order.
        answers: the vocabulary; position = the model's answer index.
        regions: features and boxes by `Question.img_id`; an image without sound regions raises ItemError when asked
            for, and an experiment records and leaves out its questions. None for data that have images alone.
        digest: SHA-256 of the question file, as hex.
    """

    questions: list[Question]
    answers: list[str]
    regions: RegionStore | None
    digest: str


def open_vqa(data: Mapping[str, Any], *, limit: int | None, seed: int) -> VqaData:
    """LXMERT-form questions, its answer list and region features as a `data` configuration describes them.

    Args:
        data: `root`, and relative to it `questions`, `answers` and `regions` (files; `regions` may be None); `draw`,
            the number of questions drawn at random, None for all in file order.
        limit: how many of these to take; None for all.
        seed: of the draw.

    Raises:
        DataError: if a file is missing, damaged or not of its format.
    """
    root = Path(data["root"])
    answers = read_answers(root / data["answers"])
    questions = draw(read_questions(root / data["questions"]), data["draw"], seed)[:limit]
    regions = None if data["regions"] is None else open_regions(root / data["regions"])
    return VqaData(questions, answers, regions, file_hash(root / data["questions"]))
