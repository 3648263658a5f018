"""Questions in LXMERT's form, the answer vocabulary, the reference's draw, and VQA v2's official files.

An item is {question_id, img_id, sent, label: {answer: soft score}} and may carry more keys, which are kept.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetexp.data.problems import DamagedFile, is_text, read_json
from hetexp.data.question_records import REQUIRED, problems_of
from hetexp.errors import DataError
from hetexp.files import atomic_write

# Soft score for 0, 1, 2, 3 and at least 4 of ten annotators, as LXMERT's files have it.
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Question:
    """One question about one image; `label` holds the soft score of each accepted answer."""

    question_id: int | str
    img_id: str
    sent: str
    label: dict[str, float]
    question_type: str | None = None
    answer_type: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def score(self, answer: str) -> float:
        """Soft score of an answer in [0, 1]; 0 for one that no annotator gave."""
        return self.label.get(answer, 0.0)

    def record(self) -> dict[str, Any]:
        """The question as an item of the file."""
        types = {"question_type": self.question_type, "answer_type": self.answer_type}
        kept = {key: value for key, value in types.items() if value is not None}
        item = {"question_id": self.question_id, "img_id": self.img_id, "sent": self.sent, "label": self.label}
        return item | kept | self.extra


def read_questions(paths: str | Path | Sequence[str | Path]) -> list[Question]:
    """Questions of one or several LXMERT-form files (minival and nominival, say), in file order.

    Raises:
        DataError: if a file is missing or no valid JSON, or a question id occurs twice.
        DamagedFile: naming every item that lacks a key, has an empty question, a score outside [0, 1], or another
            value that cannot be used.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    questions: list[Question] = []
    for file in files:
        content = read_json(Path(file), list)
        problems = problems_of(content)
        if problems:
            raise DamagedFile(file, problems)
        questions += map(_question, content)
    counts = Counter(str(question.question_id) for question in questions)
    twice = [question_id for question_id, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} question id(s) occur twice in {', '.join(map(str, files))}, first {twice[0]}")
    if not questions:
        raise DataError(f"{', '.join(map(str, files))}: no questions, at least one is needed")
    return questions


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write an LXMERT-form file.

    Raises:
        DataError: if the disk refuses.
    """
    write_items((question.record() for question in questions), path)


def write_items(items: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write items of an LXMERT-form file as they are, one a line; whole or not at all.

    Raises:
        DataError: if the disk refuses.
    """
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    atomic_write(Path(path), f"[\n{lines}\n]\n")


def read_answers(path: str | Path) -> list[str]:
    """The answer vocabulary (label2ans.json): position = the model's answer index.

    Raises:
        DataError: if the file is missing or no list of distinct texts.
    """
    answers = read_json(Path(path), list)
    wrong = [answer for answer in answers if not is_text(answer)]
    if wrong or len(set(answers)) != len(answers) or not answers:
        raise DataError(f"{path} must be a list of distinct answers (texts), position = answer index")
    return answers


def outside_vocabulary(questions: Iterable[Question], answers: Iterable[str]) -> int:
    """How many questions have no accepted answer in the vocabulary, so that no prediction can score."""
    known = set(answers)
    return sum(not any(score > 0 and answer in known for answer, score in q.label.items()) for q in questions)


def draw(questions: Sequence[Question], n: int | None, seed: int = 1234) -> list[Question]:
    """The reference's sample: the index list shuffled from the seed, its first n (None: the file as it is).

    Asking for more than there are gives all of them, in drawn order, as the reference's slice does.

    Raises:
        DataError: if `n` is below 1.
    """
    if n is None:
        return list(questions)
    if n < 1:
        raise DataError(f"the number of questions must be at least 1, got {n}: leave it out to take all")
    order = list(range(len(questions)))
    random.Random(seed).shuffle(order)
    return [questions[i] for i in order[:n]]


def from_vqa_v2(
    questions_file: str | Path, annotations_file: str | Path, image_id: str = "COCO_val2014_{:012d}"
) -> list[Question]:
    """LXMERT-form questions from VQA v2's official question and annotation files, in the order of the questions.

    `extra["answers"]` keeps the ten answers, for `official_accuracy`. The order may differ from that of LXMERT's own
    valid.json, and with it the sample that `draw` takes.

    Args:
        questions_file: v2_OpenEnded_mscoco_val2014_questions.json, say.
        annotations_file: that of the same split.
        image_id: how a COCO image id becomes the `img_id` of the region features.

    Raises:
        DataError: if a question has no annotation or a file is not in VQA v2's format.
    """
    asked = _part(read_json(Path(questions_file), dict), "questions", questions_file)
    annotated = _part(read_json(Path(annotations_file), dict), "annotations", annotations_file)
    try:
        by_id = {annotation["question_id"]: annotation for annotation in annotated}
        missing = [question["question_id"] for question in asked if question["question_id"] not in by_id]
        if missing:
            raise DataError(
                f"{annotations_file} has no annotation for {len(missing)} question(s) of {questions_file}, first "
                f"{missing[0]}: take both files of the same split"
            )
        return [_from_official(question, by_id[question["question_id"]], image_id) for question in asked]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{questions_file} or {annotations_file} is not in VQA v2's format: {error!r}") from error


def soft_label(answers: Iterable[str]) -> dict[str, float]:
    """Soft scores of the annotators' answers, counted as written (as LXMERT's files were made), by first mention."""
    counts = Counter(answers)
    return {answer: SOFT_SCORES[min(count, 4)] for answer, count in counts.items()}


def official_accuracy(answer: str, answers: Sequence[str]) -> float:
    """VQA's official accuracy: mean over the leave-one-out sets of the annotators of min(1, matches / 3).

    When all annotators gave one answer it is compared as given, as the official evaluation does.

    Raises:
        DataError: if there are no annotators' answers.
    """
    given = [text.replace("\n", " ").replace("\t", " ").strip() for text in answers]
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if not given:
        raise DataError("official accuracy needs the annotators' answers, got none")
    if len(set(given)) > 1:
        given, answer = [normalise_answer(text) for text in given], normalise_answer(answer)
    matches = sum(text == answer for text in given)
    own = [matches - (text == answer) for text in given]
    return sum(min(1.0, others / 3) for others in own) / len(given)


_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Contractions that people write without the apostrophe: the ending decides where it goes.
_ENDINGS = {
    "nt": "aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt shouldnt "
    "wasnt werent wont wouldnt",
    "ve": "couldve mightve mustve shouldve theyve wouldve youve",
    "re": "theyre youre",
    "s": "hes hows lets somebodys someones somethings thats theres wheres whos whys",
    "d": "hed howd theyd whod youd",
    "ll": "howll somebodyll someonell thatll theyll whatll wholl youll",
    "m": "im",
}


def _apostrophes() -> dict[str, str]:
    table: dict[str, str] = {}
    for ending, words in _ENDINGS.items():
        mark = "n't" if ending == "nt" else f"'{ending}"
        table |= {word: word[: -len(ending)] + mark for word in words.split()}
    return table


_CONTRACTIONS = _apostrophes()


def normalise_answer(answer: str) -> str:
    """An answer as VQA compares it: lower case, no punctuation or articles, number words as digits.

    As in the official evaluation, a mark is dropped when a space stands beside it anywhere in the text or the text has
    a comma between digits, and becomes a space otherwise; full stops not before a digit are dropped.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        joined = thousands or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if joined else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned)
    words = (_NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _from_official(question: Mapping[str, Any], annotation: Mapping[str, Any], image_id: str) -> Question:
    answers = [answer["answer"] for answer in annotation["answers"]]
    return Question(
        question_id=question["question_id"],
        img_id=image_id.format(question["image_id"]),
        sent=question["question"],
        label=soft_label(answers),
        question_type=annotation.get("question_type"),
        answer_type=annotation.get("answer_type"),
        extra={"answers": answers},
    )


def _question(item: Mapping[str, Any]) -> Question:
    known = {*REQUIRED, "question_type", "answer_type"}
    return Question(
        question_id=item["question_id"],
        img_id=str(item["img_id"]),
        sent=item["sent"],
        label={answer: float(score) for answer, score in item["label"].items()},
        question_type=item.get("question_type"),
        answer_type=item.get("answer_type"),
        extra={key: value for key, value in item.items() if key not in known},
    )


def _part(content: dict[str, Any], key: str, path: str | Path) -> list[Any]:
    part = content.get(key)
    if not isinstance(part, list):
        raise DataError(f"{path} lacks the list '{key}' of VQA v2's format; it has {', '.join(content)}")
    return part
