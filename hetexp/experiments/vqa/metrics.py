"""Metrics of question answering: what is measured of every method over all questions, one record each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from hetexp.data.vqa import normalise_answer, official_accuracy
from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, soft_scores
from hetexp.evaluation.statistics import trapezoid_auc
from hetexp.paths import import_from


@dataclass(frozen=True)
class Outcome:
    """Everything one method's stored chunks say, over all questions.

    Attributes:
        questions: a row per question, see `attribution.QUESTION_COLUMNS`.
        answers: answers to perturbed inputs [questions, panels, fractions]; -1 where relevance had no order.
        text: relevance of each question's tokens [T].
        image: relevance of each question's regions [R].
        boxes: each question's regions [R, 4], x1, y1, x2, y2 in units of the image's sides.
        score: score of answers [n, ...] to the questions at some rows [n].
        data: the `data` configuration.
        answer_names: what the numbers of answers stand for.
    """

    questions: pd.DataFrame
    answers: NDArray[np.int64]
    text: list[Tensor]
    image: list[Tensor]
    boxes: list[Tensor]
    score: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
    data: Mapping[str, Any]
    answer_names: Sequence[str] = ()


@dataclass(frozen=True)
class Measured:
    """One number of results.csv: the mean over questions of `values`.

    Attributes:
        panel: which part of the experiment.
        metric: what was measured.
        values: [n], each in 0..1.
        rows: the question of each value, as a row of `Outcome.questions` [n]; None: one value for every question.
    """

    panel: str
    metric: str
    values: NDArray[np.float64]
    rows: NDArray[np.int64] | None = None


class VqaMetric(Protocol):
    """Measures one method's outcome."""

    def __call__(self, outcome: Outcome) -> Iterator[Measured]:
        """Values per question; their mean and its interval go into results.csv, in percent."""
        ...


def perturbation(outcome: Outcome) -> Iterator[Measured]:
    """Accuracy under removal of tokens and the area under its curve (Figure 6)."""
    kept = np.flatnonzero(np.all(outcome.answers >= 0, axis=(1, 2)))
    scores = outcome.score(kept, outcome.answers[kept])
    for p, panel in enumerate(PANELS):
        # the trapezoid is linear, so the mean of per-question areas is the area of the mean curve
        yield Measured(panel, "AUC", trapezoid_auc(FRACTIONS, scores[:, p]), kept)
        for i, fraction in enumerate(FRACTIONS):
            yield Measured(panel, f"accuracy@{fraction:g}", scores[:, p, i], kept)


def retention(outcome: Outcome) -> Iterator[Measured]:
    """Share of perturbed inputs that keep the answer to the whole input, right or wrong; areas as in `perturbation`."""
    kept = np.flatnonzero(np.all(outcome.answers >= 0, axis=(1, 2)))
    same = outcome.answers[kept] == outcome.questions["predicted"].to_numpy()[kept][:, None, None]
    for p, panel in enumerate(PANELS):
        yield Measured(f"retention/{panel}", "AUC", trapezoid_auc(FRACTIONS, same[:, p]), kept)


def scorer(
    kind: str, questions: pd.DataFrame, names: list[str]
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
    """Score of predicted answers [n, ...] to the questions at some rows [n]: soft, or VQA v2's official one.

    Raises:
        DataError: for official scores without the annotators' answers.
    """
    labels = [json.loads(x) for x in questions["label"]]
    if kind == "soft":
        return lambda rows, answers: soft_scores(answers, [labels[i] for i in rows], names)
    annotators = [json.loads(x) for x in questions["annotators"]]
    if not all(annotators):
        raise DataError(
            "data.score=official needs every question's ten answers, which these files lack: build the questions "
            "from VQA v2's own files, or use data.score=soft"
        )
    plain = {name: normalise_answer(name) for name in names}
    official = []
    for given in annotators:
        wanted = {normalise_answer(a) for a in given}
        official.append({n: official_accuracy(n, given) for n in names if n in given or plain[n] in wanted})
    return lambda rows, answers: soft_scores(answers, [official[i] for i in rows], names)


# Name, as `metrics=[...]` lists it -> function; all are computed unless `metrics` says which.
METRICS: dict[str, str] = {
    "perturbation": "hetexp.experiments.vqa.metrics:perturbation",
    "localisation": "hetexp.experiments.vqa.localise:localisation",
}
# Further ones, computed where `metrics` names them.
FURTHER: dict[str, str] = {
    "retention": "hetexp.experiments.vqa.metrics:retention",
    "semantics": "hetexp.experiments.vqa.semantics:semantics",
    "logic": "hetexp.experiments.vqa.semantics:logic",
}


def get_metric(name: str) -> VqaMetric:
    """The metric of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    known = METRICS | FURTHER
    if name not in known:
        raise ConfigError(f"unknown metric {name!r}. Available for question answering: {', '.join(known)}")
    found: VqaMetric = import_from(known[name])
    return found
