"""Stage 2 of question answering: what is measured of every method, from the store alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from hetexp.config import plain
from hetexp.evaluation.statistics import bootstrap_interval
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.attribution import QUESTIONS
from hetexp.experiments.vqa.metrics import METRICS, Measured, Outcome, get_metric, scorer


def measure_all(session: Session) -> list[Result]:
    """The model's own accuracy, then every metric of every method."""
    rows: list[Result] = []
    metrics = [get_metric(name) for name in session.cfg.metrics or METRICS]
    for spec in session.methods:
        outcome, skipped = read_outcome(session, spec)
        if not rows:  # the model's own accuracy stands beside every number, once
            report_skips("questions", len(outcome.questions), skipped)
            everything = np.arange(len(outcome.questions))
            own = outcome.score(everything, outcome.questions["predicted"].to_numpy()[:, None])[:, 0]
            rows.append(mean_result(session, None, Measured("", "accuracy", own)))
        for metric in metrics:
            rows += [mean_result(session, spec, measured) for measured in metric(outcome)]
        session.facts.setdefault("counts", {})[spec.name] = {
            "questions": len(outcome.questions),
            "skipped_questions": len(skipped),
            "not_finite": int((outcome.answers < 0).any(axis=(1, 2)).sum()),
        }
    return rows


def mean_result(session: Session, spec: MethodSpec | None, measured: Measured) -> Result:
    """One result in percent with its bootstrap interval over questions."""
    values, cfg = measured.values, session.cfg
    result = Result(spec, measured.panel, measured.metric, None, len(values))
    if not len(values):
        return result
    result = replace(result, value=100 * float(values.mean()))
    if not cfg.bootstrap:
        return result
    interval = bootstrap_interval(values, n=cfg.bootstrap, seed=cfg.seed)
    return replace(result, ci_low=100 * float(interval.low), ci_high=100 * float(interval.high))


def read_outcome(session: Session, spec: MethodSpec) -> tuple[Outcome, list[str]]:
    """The joined chunks of one method, in item order, and why questions were skipped."""
    tables: list[pd.DataFrame] = []
    answers: list[NDArray[np.int64]] = []
    skipped: list[str] = []
    text: list[Tensor] = []
    image: list[Tensor] = []
    boxes: list[Tensor] = []
    for chunk in session.chunk_names:
        rows = session.store.read(chunk, QUESTIONS)
        unit = session.store.read(chunk, spec.unit, spec.settings)
        frame = rows.tables["questions"]
        skipped += rows.tables["skips"]["reason"].tolist()
        tables.append(frame)
        answers.append(unit.tensors["answers"].numpy())
        lengths, regions = [len(json.loads(t)) for t in frame["tokens"]], frame["n_regions"].tolist()
        text += unit.tensors["text"].split(lengths)
        image += unit.tensors["image"].split(regions)
        boxes += rows.tensors["boxes"].split(regions)
    questions = pd.concat(tables, ignore_index=True)
    score = scorer(session.cfg.data.score.name, questions, session.data.answers)
    data = plain(session.cfg.data)
    return Outcome(questions, np.concatenate(answers), text, image, boxes, score, data), skipped
