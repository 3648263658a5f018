"""Finished runs as they lie on disk, with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hetexp.evaluation.masks import otsu_thresholds, segment, to_uint8
from hetexp.experiments.explanations import Explanation, replace_folder
from hetexp.reporting.names import PANEL_NAMES, PAPER_METHODS
from hetexp.reporting.published import METRICS, TABLES

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
BASE = {"model": "detr", "checkpoint": "detr@0123456789ab", "data": "scenes", "n": 300}


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A run folder with these results."""
    folder.mkdir(parents=True)
    columns = ["experiment", "model", "checkpoint", "data", "method", "correction", "noise_link", "threshold"]
    columns += ["panel", "metric", "value", "n", "ci_low", "ci_high"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "results.csv", index=False)
    (folder / "config.yaml").write_text("seed: 1234\nprofile:\n  name: embedded\n")
    (folder / "run.json").write_text(json.dumps({"seconds": 12.5, "versions": {"torch": "2.13.0"}}))
    return folder


def table_rows(number: int, change: Callable[[str, str, float], float | None] | None = None) -> list[dict[str, Any]]:
    """The paper's own numbers as if measured, each passed through `change(metric, method, value)`."""
    table = TABLES[number]
    rows = []
    for metric in METRICS:
        for method in PAPER_METHODS:
            value = table.value(metric, method)
            rows.append(
                {
                    **BASE,
                    "experiment": table.experiment,
                    "method": method,
                    "threshold": table.scale,
                    "panel": "segm",
                    "metric": metric,
                    "value": value if change is None else change(metric, method, value),
                }
            )
    return rows


def perturbation_rows(methods: dict[str, float]) -> list[dict[str, Any]]:
    """Figure 6's results: AUC of each method in every panel, with an interval of one point to either side."""
    base = {
        **BASE,
        "experiment": "figure6",
        "model": "lxmert",
        "checkpoint": "lxmert@ba9876543210",
        "data": "questions",
    }
    rows: list[dict[str, Any]] = [
        {**base, "panel": "", "metric": "accuracy", "value": 95.0, "ci_low": 94.0, "ci_high": 96.0}
    ]
    for method, auc in methods.items():
        for panel in PANEL_NAMES:
            mine = {**base, "method": method, "panel": panel}
            rows.append({**mine, "metric": "AUC", "value": auc, "ci_low": auc - 1, "ci_high": auc + 1})
            for f in FRACTIONS:
                rows.append({**mine, "metric": f"accuracy@{f:g}", "value": 95 - f * (95 - auc), "n": 2000})
    return rows


def write_samples(outputs: Path, methods: tuple[str, ...] = PAPER_METHODS) -> None:
    """Samples of both models with random relevance, as `task=samples` leaves them."""
    rng = np.random.default_rng(0)
    about = {"checkpoint": "detr@0123456789ab", "data": "scenes", "versions": {"torch": "2.13.0"}}
    explained: dict[str, dict[str, Explanation]] = {"detr": {}, "lxmert": {}}
    for item in (1, 2):
        maps = {m: torch.from_numpy(rng.random((2, 4, 5), dtype=np.float32) ** 3) for m in methods}
        levels = {m: to_uint8(r) for m, r in maps.items()}
        masks = {
            f"{m}@{s:g}": segment(r, s, (96, 120), (48, 60)).to(torch.uint8) for m, r in maps.items() for s in (1, 0.3)
        }
        found = [{"query": q, "label": "zebra", "score": 0.95, "box": [5, 6, 30, 40]} for q in (3, 7)]
        info = {"kind": "detr", "item": item, "detections": found, "methods": list(methods), "input_size": [96, 120]}
        info["otsu"] = {m: otsu_thresholds(u8).tolist() for m, u8 in levels.items()}
        explained["detr"][str(item)] = Explanation(picture(rng), info, maps, masks, levels)
    for number, question in enumerate(("is there a zebra?", "is there a dog?")):
        tokens = ["[CLS]", *question.replace("?", " ?").split(), "[SEP]"]
        relevance = {}
        for key in (*methods, "homologous", "ours_full", "ours_full:difference"):
            shift = 0.5 if key.startswith("ours_full") else 0.0
            for stream, n in (("text", len(tokens)), ("image", 3)):
                relevance[f"{key}/{stream}"] = torch.from_numpy(rng.random(n, dtype=np.float32) - np.float32(shift))
        answers = [{"answer": a, "logit": 1.0, "probability": p} for a, p in (("yes", 0.8), ("no", 0.2))]
        info = {"kind": "lxmert", "item": "000001", "question": question, "tokens": tokens, "answers": answers}
        info |= {"boxes": [[0, 0, 30, 20], [10, 5, 60, 48], [0, 0, 60, 48]], "contrast": ["yes", "no"]}
        part = "logic" if number else "questions"
        info |= {"methods": [*methods, "homologous", "ours_full"], "part": part}
        explained["lxmert"][f"{part}-0"] = Explanation(picture(rng), info, relevance)
    for model, items in explained.items():
        replace_folder(outputs / "samples" / model, items, {**about, "model": model})


def picture(rng: np.random.Generator) -> Image.Image:
    """A small random image, 60 pixels wide and 48 high."""
    return Image.fromarray(rng.integers(0, 255, (48, 60, 3), dtype=np.uint8))
