"""Stage 2 of question answering: what is measured of every method, from the store alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from hetexp.config import plain
from hetexp.errors import InputError
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.engine.similarity import ItemMaps, similar_maps
from hetexp.experiments.vqa.attribution import QUESTIONS
from hetexp.experiments.vqa.controls import get_control
from hetexp.experiments.vqa.metrics import METRICS, Measured, Outcome, get_metric, scorer
from hetexp.experiments.vqa.ordered import ordered_answers


def measure_all(session: Session) -> list[Result]:
    """The model's own accuracy, then every metric of every method and control."""
    cfg = session.cfg
    metrics = [get_metric(name) for name in cfg.metrics or METRICS]
    controls = [get_control(name) for name in cfg.controls or ()]
    first, skipped = read_outcome(session, session.methods[0])
    report_skips("questions", len(first.questions), skipped)
    record = ItemRecord(sorted(set(first.questions["img_id"])), cfg.bootstrap, cfg.seed)
    # the model's own accuracy stands beside every number, once
    everything = np.arange(len(first.questions))
    own = first.score(everything, first.questions["predicted"].to_numpy()[:, None])[:, 0]
    rows = [record.mean(None, _items(first, Measured("", "accuracy", own)))]
    for spec in session.methods:
        outcome = first if spec is session.methods[0] else read_outcome(session, spec)[0]
        rows += [record.mean(spec, _items(outcome, measured)) for metric in metrics for measured in metric(outcome)]
        session.facts.setdefault("counts", {})[spec.name] = {
            "questions": len(outcome.questions),
            "skipped_questions": len(skipped),
            "not_finite": int((outcome.answers < 0).any(axis=(1, 2)).sum()),
        }
    for control in controls:
        text, image = control.relevance(first)
        perturbed = "perturbation" in (cfg.metrics or METRICS)
        answers = ordered_answers(session, first, text, image) if perturbed else np.full_like(first.answers, -1)
        outcome = replace(first, text=text, image=image, answers=answers)
        found = [measured for metric in metrics for measured in metric(outcome)]
        rows += [record.mean(control, _items(outcome, measured)) for measured in found if len(measured.values)]
    rows += similar_maps(session, record, read_maps)
    record.write(session.folder)
    return rows


def read_maps(session: Session, spec: MethodSpec) -> dict[str, ItemMaps]:
    """Relevance of every question's regions and words by its name in the item values, for comparisons."""
    outcome = read_outcome(session, spec)[0]
    return {
        str(q.question_id): ItemMaps(q.img_id, {"image": image.double().numpy(), "text": text[1:-1].double().numpy()})
        for q, image, text in zip(outcome.questions.itertuples(), outcome.image, outcome.text, strict=True)
    }


def _items(outcome: Outcome, measured: Measured) -> ItemValues:
    """Values with their questions and images.

    Raises:
        InputError: if there is no question to each value.
    """
    rows = np.arange(len(outcome.questions)) if measured.rows is None else measured.rows
    if len(rows) != len(measured.values):
        raise InputError(
            f"{measured.panel}/{measured.metric} has {len(measured.values)} values for {len(rows)} questions: yield "
            "Measured(panel, metric, values, rows) with the question of each value"
        )
    of = outcome.questions.iloc[rows]
    return ItemValues(measured.panel, measured.metric, measured.values, list(of["question_id"]), list(of["img_id"]))


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
    names = session.data.answers
    return Outcome(questions, np.concatenate(answers), text, image, boxes, score, data, names), skipped
