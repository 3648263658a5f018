"""LXMERT: accuracy under perturbation (Figure 6) and ground-truth measures, from the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from hetexp.data.vqa import (
    normalise_answer,
    official_accuracy,
)
from hetexp.errors import DataError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, soft_scores
from hetexp.evaluation.statistics import bootstrap_interval, trapezoid_auc
from hetexp.experiments.chunks import report_skips
from hetexp.experiments.lxmert_attribution import QUESTIONS, Job, attribute_all, prepare
from hetexp.experiments.merge import write_manifest
from hetexp.experiments.methods import MethodSpec
from hetexp.experiments.session import Session
from hetexp.experiments.truth import MEASURES, truth_frame


@dataclass
class Outcome:
    """Everything one method's stored chunks say, over all questions."""

    questions: pd.DataFrame
    answers: np.ndarray  # [questions, panels, fractions]; -1 where relevance had no order
    text: list[Tensor]
    image: list[Tensor]
    boxes: list[Tensor]
    skipped: list[str]  # why


def read_outcome(job: Job, spec: MethodSpec) -> Outcome:
    """Join the chunks of one method, in item order."""
    tables, answers = [], []
    skipped: list[str] = []
    text: list[Tensor] = []
    image: list[Tensor] = []
    boxes: list[Tensor] = []
    for chunk in job.chunks:
        rows = job.store.read(job.store.unit(chunk.name, QUESTIONS))
        unit = job.store.read(job.store.unit(chunk.name, spec.name, spec.settings))
        frame = rows.tables["questions"]
        skipped += rows.tables["skips"]["reason"].tolist()
        tables.append(frame)
        answers.append(unit.tensors["answers"].numpy())
        lengths, regions = [len(json.loads(t)) for t in frame["tokens"]], frame["n_regions"].tolist()
        text += unit.tensors["text"].split(lengths)
        image += unit.tensors["image"].split(regions)
        boxes += rows.tensors["boxes"].split(regions)
    return Outcome(pd.concat(tables, ignore_index=True), np.concatenate(answers), text, image, boxes, skipped)


def evaluate_all(session: Session, job: Job) -> list[dict[str, Any]]:
    """Stage 2: accuracies under removal, their area, and ground-truth measures, from the store alone."""
    rows: list[dict[str, Any]] = []
    for spec in session.methods:
        outcome = read_outcome(job, spec)
        base = session.row(spec)
        usable = np.all(outcome.answers >= 0, axis=(1, 2))
        score = _scorer(session.cfg.data.score, outcome.questions, job.answers)
        everything = np.arange(len(usable))
        if not rows:  # the model's own accuracy stands beside every AUC, once
            report_skips("questions", len(usable), outcome.skipped)
            own = score(everything, outcome.questions["predicted"].to_numpy()[:, None])[:, 0]
            rows.append(_mean_row(session, session.row(None), "", "accuracy", own))
        kept = np.flatnonzero(usable)
        scores = score(kept, outcome.answers[kept])
        for p, panel in enumerate(PANELS):
            rows += _panel_rows(session, base, panel, scores[:, p])
        rows += _truth_rows(session, base, outcome)
        session.facts.setdefault("counts", {})[spec.name] = {
            "questions": len(usable),
            "skipped_questions": len(outcome.skipped),
            "not_finite": int((~usable).sum()),
        }
    return rows


def _scorer(kind: str, questions: pd.DataFrame, names: list[str]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Score of predicted answers [n, ...] to the questions at some rows [n]: soft, or VQA v2's official one."""
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


def _mean_row(session: Session, base: dict[str, Any], panel: str, metric: str, values: np.ndarray) -> dict[str, Any]:
    """One result in percent with its bootstrap interval over questions."""
    row = {**base, "panel": panel, "metric": metric, "value": None, "n": len(values)}
    if len(values):
        row["value"] = 100 * float(values.mean())
        if session.cfg.bootstrap:
            interval = bootstrap_interval(values, n=session.cfg.bootstrap, seed=session.cfg.seed)
            row["ci_low"], row["ci_high"] = 100 * float(interval.low), 100 * float(interval.high)
    return row


def _panel_rows(session: Session, base: dict[str, Any], panel: str, scores: np.ndarray) -> list[dict[str, Any]]:
    """AUC and the accuracy at every removed fraction; scores [questions, fractions]."""
    # the trapezoid is linear, so the mean of per-question areas is the area of the mean curve
    areas = trapezoid_auc(FRACTIONS, scores)
    out = [_mean_row(session, base, panel, "AUC", areas)]
    out += [_mean_row(session, base, panel, f"accuracy@{f:g}", scores[:, i]) for i, f in enumerate(FRACTIONS)]
    return out


def _truth_rows(session: Session, base: dict[str, Any], outcome: Outcome) -> list[dict[str, Any]]:
    """Ground-truth measures over all questions and per question type."""
    frame = truth_frame(session.cfg, outcome.questions, outcome.text, outcome.image, outcome.boxes)
    parts = {"truth": frame} | {f"truth/{kind}": part for kind, part in frame.groupby("question_type")}
    out = []
    for panel, part in parts.items():
        for measure in MEASURES:
            values = part[measure].dropna().to_numpy(dtype=float)
            if len(values):
                out.append(_mean_row(session, base, panel, measure, values))
    return out


def run(session: Session) -> list[dict[str, Any]]:
    """Both stages; a shard only fills its part of the store."""
    job = prepare(session)
    attribute_all(session, job)
    if session.shard[1] > 1:
        write_manifest(session, job.store, job.chunks)
        return []
    return evaluate_all(session, job)
