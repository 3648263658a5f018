"""Ground-truth measures of question answering, over all questions and per question type (beyond the paper)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as rle

from hetexp.data.coco import CocoScenes
from hetexp.evaluation.localisation import coverage, pointing_game, relevance_mass_accuracy, word_rank
from hetexp.experiments.vqa.metrics import Measured, Outcome

MEASURES = ("relevance_mass_accuracy", "pointing_game", "word_rank")
PANEL = "localisation"


def localisation(outcome: Outcome) -> Iterator[Measured]:
    """Whether relevance lies on the objects and words that are known to decide the answer."""
    frame = measures(outcome)
    parts = {PANEL: frame} | {f"{PANEL}/{kind}": part for kind, part in frame.groupby("question_type")}
    for panel, part in parts.items():
        for measure in MEASURES:
            values = part[measure].dropna().to_numpy(dtype=float)
            if len(values):
                yield Measured(panel, measure, values)


def measures(outcome: Outcome) -> pd.DataFrame:
    """One row per question with known deciding objects or words: question_type and the three measures.

    Values lie in 0..1 and are None where a measure does not apply; questions whose relevance is not finite are left
    out. Empty if the data has no annotations.
    """
    rows = []
    data = outcome.data
    if data["annotations"] is not None:
        scenes = CocoScenes(f"{data['root']}/{data['images']}", f"{data['root']}/{data['annotations']}")
        for i, question in enumerate(outcome.questions.itertuples()):
            text, image = outcome.text[i], outcome.image[i]
            if not (bool(text.isfinite().all()) and bool(image.isfinite().all())):
                continue
            row: dict[str, Any] = {"question_type": question.question_type, **dict.fromkeys(MEASURES)}
            row["word_rank"] = word_rank(text.double().numpy(), json.loads(question.deciding_tokens))
            objects = json.loads(question.deciding_objects)
            if objects:
                mask = _union(scenes, objects)
                where, relevance = outcome.boxes[i].double().numpy(), image.double().numpy()
                row["relevance_mass_accuracy"] = relevance_mass_accuracy(relevance, coverage(where, mask))
                row["pointing_game"] = float(pointing_game(relevance, where, mask))
            rows.append(row)
    return pd.DataFrame(rows, columns=["question_type", *MEASURES])


def _union(scenes: CocoScenes, annotation_ids: Sequence[int]) -> np.ndarray:
    """Mask [H, W] of several annotations of one image."""
    codes = [scenes.coco.annToRLE(scenes.coco.anns[a]) for a in annotation_ids]
    return rle.decode(rle.merge(codes)).astype(bool)
