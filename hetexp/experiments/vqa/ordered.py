"""Answers to inputs perturbed in a given order of words and regions, for controls, whose order comes from no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hetexp.evaluation.perturbation import FRACTIONS, PANELS, variants
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.attribution import load_question
from hetexp.experiments.vqa.metrics import Outcome
from hetexp.experiments.vqa.perturb import answer_variants
from hetexp.experiments.vqa.regions import regions_for


def ordered_answers(
    session: Session, outcome: Outcome, text: Sequence[Tensor], image: Sequence[Tensor]
) -> NDArray[np.int64]:
    """Answers when words and regions are removed by a relevance that is given.

    Args:
        outcome: whose questions are asked again.
        text: relevance of each question's tokens [T].
        image: relevance of each question's regions [R].

    Returns:
        [questions, panels, fractions], as `Outcome.answers`.
    """
    adapter, regions = session.adapter, regions_for(session)
    by_id = {str(question.question_id): question for question in session.data.questions}
    ids = [by_id[number] for number in outcome.questions["question_id"]]
    retry = OutOfMemoryRetry(f"free memory on {adapter.device} or take another device")
    out = np.empty((len(ids), len(PANELS), len(FRACTIONS)), dtype=np.int64)
    for start in range(0, len(ids), session.cfg.chunk_size):
        part = slice(start, start + session.cfg.chunk_size)
        samples = [load_question(adapter, regions, question) for question in ids[part]]
        plans = [variants(t, i) for t, i in zip(text[part], image[part], strict=True)]
        answers = answer_variants(adapter, samples, [plan.values() for plan in plans], run=retry)
        for row, (plan, found) in enumerate(zip(plans, answers, strict=True), start):
            flat = [found[plan[panel, fraction]] for panel in PANELS for fraction in FRACTIONS]
            out[row] = np.reshape(flat, out.shape[1:])
    return out
