"""Explanations of answers whose cost is measured: those to the first questions."""

from __future__ import annotations

from functools import partial

from hetexp.data.coco import ItemError
from hetexp.data.vqa_dataset import VqaData
from hetexp.errors import DataError, InputError
from hetexp.experiments.engine.costs import Priced
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.attribution import load_question
from hetexp.experiments.vqa.regions import regions_for
from hetexp.models.protocols import Answerer


def priced(session: Session, number: int) -> list[Priced]:
    """That many explanations, or as many as there are questions.

    Raises:
        DataError: if no question can be used.
    """
    data: VqaData = session.data
    adapter: Answerer = session.adapter
    regions = regions_for(session)
    out: list[Priced] = []
    for question in data.questions:
        if len(out) == number:
            break
        try:
            inputs = adapter.collate([load_question(adapter, regions, question)])
        except (ItemError, InputError):
            continue  # said when its relevance is computed
        out.append(Priced(inputs, session.target, partial(adapter.predict, inputs)))
    if not out:
        raise DataError("no question can be read to measure costs on: check data.root")
    return out
