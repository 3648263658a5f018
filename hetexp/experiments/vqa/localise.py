"""Ground-truth measures of question answering, over all questions and per question type (beyond the paper)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetexp.data.coco import CocoScenes
from hetexp.errors import DataError
from hetexp.evaluation.localisation import (
    auroc,
    coverage,
    pointing_game,
    relevance_mass_accuracy,
    word_auroc,
    word_rank,
)
from hetexp.experiments.vqa.metrics import Measured, Outcome
from hetexp.files import file_hash

MEASURES = ("relevance_mass_accuracy", "pointing_game", "region_auroc", "word_rank", "word_auroc")
PANEL = "localisation"


def localisation(outcome: Outcome) -> Iterator[Measured]:
    """Whether relevance lies on the objects and words that are known to decide the answer."""
    frame = measures(outcome)
    parts = {PANEL: frame} | {f"{PANEL}/{kind}": part for kind, part in frame.groupby("question_type")}
    for panel, part in parts.items():
        for measure in MEASURES:
            values = part[measure].dropna()
            if len(values):
                yield Measured(panel, measure, values.to_numpy(dtype=float), values.index.to_numpy(dtype=np.int64))


def measures(outcome: Outcome) -> pd.DataFrame:
    """One row per question: question_type and the measures, under the question's row in `outcome.questions`.

    Values lie in 0..1 and are None where a measure does not apply, which depends on the question alone: relevance that
    is not finite counts as none. Empty if the data has no annotations.
    """
    scenes = annotations_of(outcome.data)
    if scenes is None:
        return pd.DataFrame(columns=["question_type", *MEASURES])
    rows = []
    for i, question in enumerate(outcome.questions.itertuples()):
        text, image = finite(outcome.text[i]), finite(outcome.image[i])
        words, objects = json.loads(question.deciding_tokens), json.loads(question.deciding_objects)
        row: dict[str, Any] = {"question_type": question.question_type, **dict.fromkeys(MEASURES)}
        row["word_rank"], row["word_auroc"] = word_rank(text, words), word_auroc(text, words)
        if objects:
            mask, where = scenes.union(objects, question.img_id), outcome.boxes[i].double().numpy()
            covered = coverage(where, mask)
            row["relevance_mass_accuracy"] = relevance_mass_accuracy(image, covered)
            row["pointing_game"] = float(pointing_game(image, where, mask))
            row["region_auroc"] = auroc(image, covered)
        rows.append(row)
    return pd.DataFrame(rows, columns=["question_type", *MEASURES])


def oracle(outcome: Outcome) -> tuple[list[Tensor], list[Tensor]]:
    """Relevance of words and regions that knows what decides: 1 on the deciding words, and the share of each region's
    box that the deciding objects cover.

    Raises:
        DataError: if the data has no annotations.
    """
    scenes = annotations_of(outcome.data)
    if scenes is None:
        raise DataError("the oracle needs data.annotations, which this data does not have: leave controls out")
    text, image = [], []
    for i, question in enumerate(outcome.questions.itertuples()):
        words = torch.zeros(len(outcome.text[i]))
        words[json.loads(question.deciding_tokens)] = 1
        objects = json.loads(question.deciding_objects)
        where = outcome.boxes[i].double().numpy()
        text.append(words)
        covered = coverage(where, scenes.union(objects, question.img_id)) if objects else np.zeros(len(where))
        image.append(torch.from_numpy(covered))
    return text, image


def finite(relevance: Tensor) -> NDArray[np.float64]:
    """Relevance as numbers; what is not finite counts as none."""
    values = relevance.double().numpy()
    return values if np.isfinite(values).all() else np.zeros_like(values)


def annotations_of(data: Mapping[str, Any]) -> CocoScenes | None:
    """The scenes behind a data configuration; None where it has no annotations."""
    if data["annotations"] is None:
        return None
    root = Path(data["root"])
    annotations = root / data["annotations"]
    return _scenes(root / data["images"], annotations, file_hash(annotations) if annotations.is_file() else "")


@lru_cache(maxsize=1)
def _scenes(images: Path, annotations: Path, digest: str) -> CocoScenes:
    """The annotations, read once for all methods; `digest` is that of the file."""
    return CocoScenes(images, annotations)
