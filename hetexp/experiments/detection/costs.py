"""Explanations of detections whose cost is measured: the most probable one of each of the first images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hetexp.data.coco import ItemError
from hetexp.data.registry import DetectionData
from hetexp.errors import DataError
from hetexp.experiments.engine.costs import Priced
from hetexp.experiments.engine.session import Session
from hetexp.models.protocols import Detector


def priced(session: Session, number: int) -> list[Priced]:
    """That many explanations, or as many as there are images.

    Raises:
        DataError: if no image can be used.
    """
    data: DetectionData = session.data
    adapter: Detector = session.adapter
    out: list[Priced] = []
    for item in data.items:
        if len(out) == number:
            break
        try:
            pixels = adapter.preprocess(data.load(item))
        except ItemError:
            continue  # said when its relevance is computed
        inputs = adapter.collate([pixels])
        (found,) = adapter.detect(inputs)
        target = replace(session.target, query=int(found.scores.argmax()))
        out.append(Priced(inputs, target, partial(adapter.detect, inputs)))
    if not out:
        raise DataError("no image can be read to measure costs on: check data.root")
    return out
