"""Ground-truth measures of a LXMERT run, per question type (beyond the paper)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pycocotools import mask as rle
from torch import Tensor

from hetexp.data.coco import CocoScenes
from hetexp.evaluation.faithfulness import coverage, object_share, points_at, word_rank

MEASURES = ("object_share", "pointing", "word_rank")


def truth_frame(
    cfg: DictConfig, questions: pd.DataFrame, text: Sequence[Tensor], image: Sequence[Tensor], boxes: Sequence[Tensor]
) -> pd.DataFrame:
    """One row per question with known deciding objects or words: question_type and the three measures.

    Values lie in 0..1 and are None where a measure does not apply; questions whose relevance is not finite are left
    out. Empty if the data has no annotations.
    """
    rows = []
    if cfg.data.annotations is not None:
        scenes = CocoScenes(f"{cfg.data.root}/{cfg.data.images}", f"{cfg.data.root}/{cfg.data.annotations}")
        for i, question in enumerate(questions.itertuples()):
            if not (bool(text[i].isfinite().all()) and bool(image[i].isfinite().all())):
                continue
            row: dict[str, Any] = {"question_type": question.question_type, **dict.fromkeys(MEASURES)}
            row["word_rank"] = word_rank(text[i].double().numpy(), json.loads(question.deciding_tokens))
            objects = json.loads(question.deciding_objects)
            if objects:
                mask = _union(scenes, objects)
                where, relevance = boxes[i].double().numpy(), image[i].double().numpy()
                row["object_share"] = object_share(relevance, coverage(where, mask))
                row["pointing"] = float(points_at(relevance, where, mask))
            rows.append(row)
    return pd.DataFrame(rows, columns=["question_type", *MEASURES])


def _union(scenes: CocoScenes, annotation_ids: Sequence[int]) -> np.ndarray:
    """Mask [H, W] of several annotations of one image."""
    codes = [scenes.coco.annToRLE(scenes.coco.anns[a]) for a in annotation_ids]
    return rle.decode(rle.merge(codes)).astype(bool)


def deciding_tokens(spans: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the tokens whose characters overlap a deciding span; specials have the empty offset (0, 0)."""
    return [t for t, (start, end) in enumerate(offsets) if end > start and any(start < b and a < end for a, b in spans)]
