"""Finished runs as they lie on disk, with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.numpy import save_file

from hetexp.evaluation.masks import segment, to_uint8
from hetexp.evaluation.thresholds.otsu import otsu_thresholds
from hetexp.reporting.names import PANEL_NAMES, PAPER_METHODS
from hetexp.reporting.published import METRICS, TABLES
from hetexp.reporting.run_lengths import RunLengths, encode_masks, plain_run_lengths
from hetexp.reporting.samples import StoredExplanation

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


IMAGES = 40


def write_items(folder: Path) -> Path:
    """Items behind a run's results: on every image each number moves by the same, so that differences are certain."""
    frame = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    frame = frame[frame["value"].notna()]
    shifts = np.linspace(-0.02, 0.02, IMAGES)
    images = [str(n) for n in range(IMAGES)]
    values = [
        pd.DataFrame(
            {"threshold": row.threshold, "item": images, "image": images, "value": row.value / 100 + shifts}
            | {key: getattr(row, key) for key in ("method", "panel", "metric")}
        )
        for row in frame.itertuples()
    ]
    (folder / "items").mkdir()
    pd.concat(values).to_parquet(folder / "items" / "values.parquet")
    pd.DataFrame({"image": images}).to_parquet(folder / "items" / "units.parquet")
    matches = pd.DataFrame(columns=["method", "threshold", "panel", "file"])
    matches.to_parquet(folder / "items" / "matches.parquet")
    return folder


def measure_rows(experiment: str, panel: str, measures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Results of tables 3 and 4: method -> measure -> percent."""
    base = {**BASE, "experiment": experiment, "panel": panel}
    return [
        {**base, "method": method, "metric": metric, "value": value, "ci_low": value - 1, "ci_high": value + 1}
        for method, found in measures.items()
        for metric, value in found.items()
    ]


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


def finished_runs(folder: Path) -> Path:
    """An outputs folder with one run of each experiment."""
    outputs = folder / "outputs"
    runs = outputs / "runs" / "2026-01-01"
    write_items(write_run(runs / "10-00-00_table1", table_rows(1)))
    write_items(write_run(runs / "10-05-00_table2", table_rows(2)))
    write_run(
        runs / "10-10-00_figure6",
        perturbation_rows({"gae": 60, "odam": 50, "ours_abs": 62, "ours_pos": 61, "ours_noised": 63, "random": 55}),
    )
    sweep = outputs / "sweeps" / "2026-01-01" / "10-20-00"
    rows = []
    for i, scale in enumerate((0.3, 0.6, 1.0)):
        for rank, method in enumerate(PAPER_METHODS):
            value = 10 + rank * (scale - 0.6)  # the ranking turns over at 0.6
            rows.append(
                {**BASE, "experiment": "threshold_sweep", "method": method, "threshold": scale}
                | {"panel": "segm", "metric": "AP", "value": value, "ci_low": value - 1, "ci_high": value + 1}
            )
        write_run(sweep / str(i), rows[-len(PAPER_METHODS) :])
    pd.DataFrame(rows).to_csv(sweep / "results.csv", index=False)
    (sweep / "multirun.yaml").write_text("{}")
    return outputs


def write_samples(outputs: Path, methods: Sequence[str] = PAPER_METHODS, shown: Sequence[str] | None = None) -> None:
    """Samples of both kinds with random relevance, as `task=samples` leaves them."""
    about: dict[str, Any] = {"checkpoint": "detr@0123456789ab", "data": "scenes", "versions": {"torch": "2.13.0"}}
    if shown is not None:
        about["shown"] = list(shown)
    for kind, model, items in (
        ("detection", "detr", detection_samples(methods)),
        ("vqa", "lxmert", question_samples(methods)),
    ):
        folder = outputs / "samples" / kind
        for name, explanation in items.items():
            write_explanation(folder / name, explanation)
        (folder / "index.json").write_text(json.dumps({**about, "model": model, "items": list(items)}))


def write_explanation(folder: Path, explanation: StoredExplanation) -> None:
    """An explanation's folder; files that it has nothing for are left out."""
    folder.mkdir(parents=True)
    (folder / "info.json").write_text(json.dumps(dict(explanation.info)))
    if explanation.image is not None:
        Image.fromarray(explanation.image).save(folder / "image.png")
    if explanation.masks:
        (folder / "masks.json").write_text(encode_masks(explanation.masks))
    for name in ("relevance", "levels"):
        arrays = dict(getattr(explanation, name))
        if arrays:
            save_file(arrays, folder / f"{name}.safetensors")


def detection_samples(methods: Sequence[str] = PAPER_METHODS) -> dict[str, StoredExplanation]:
    """Two images with two detections each, by name."""
    rng = np.random.default_rng(0)
    samples = {}
    for item in (1, 2):
        maps = {m: torch.from_numpy(rng.random((2, 4, 5), dtype=np.float32) ** 3) for m in methods}
        levels = {m: to_uint8(r) for m, r in maps.items()}
        masks = {
            f"{m}@{s:g}": segment(r, s, (96, 120), (48, 60)).to(torch.uint8) for m, r in maps.items() for s in (1, 0.3)
        }
        info = {
            "kind": "detection",
            "item": item,
            "detections": [{"query": q, "label": "zebra", "score": 0.95, "box": [5, 6, 30, 40]} for q in (3, 7)],
            "methods": list(methods),
            "input_size": [96, 120],
            "otsu": {m: otsu_thresholds(u8).tolist() for m, u8 in levels.items()},
            "objects": [
                {"correct": True, "size": "medium", "mask": box_mask((6, 5), (40, 28))},
                {"correct": False, "size": "small"},
            ],
        }
        samples[str(item)] = StoredExplanation(
            picture(rng), info, _arrays(maps), masks=_arrays(masks), levels=_arrays(levels)
        )
    return samples


def question_samples(methods: Sequence[str] = PAPER_METHODS) -> dict[str, StoredExplanation]:
    """Two questions, by name: one of part "questions", one of part "logic"."""
    rng = np.random.default_rng(0)
    samples = {}
    for number, question in enumerate(("is there a zebra?", "is there a dog?")):
        tokens = ["[CLS]", *question.replace("?", " ?").split(), "[SEP]"]
        relevance = {}
        for key in (*methods, "homologous", "ours_full", "ours_full:difference", "gae:difference"):
            shift = 0.5 if key.startswith("ours_full") else 0.0
            for stream, n in (("text", len(tokens)), ("image", 3)):
                relevance[f"{key}/{stream}"] = rng.random(n, dtype=np.float32) - np.float32(shift)
        part = "logic" if number else "questions"
        info = {
            "kind": "vqa",
            "item": "000001",
            "part": part,
            "question": question,
            "tokens": tokens,
            "answers": [{"answer": a, "logit": 1.0, "probability": p} for a, p in (("yes", 0.8), ("no", 0.2))],
            "boxes": [[0, 0, 30, 20], [10, 5, 60, 48], [0, 0, 60, 48]],
            "contrast": ["yes", "no"],
            "accepted": {"no" if number else "yes": 1.0},
            "objects": [{"name": "zebra", "named": not number, "mask": box_mask((5, 10), (48, 60))}],
            "methods": [*methods, "homologous", "ours_full"],
        }
        samples[f"{part}-0"] = StoredExplanation(picture(rng), info, relevance)
    return samples


def box_mask(start: tuple[int, int], end: tuple[int, int]) -> RunLengths:
    """Run lengths of a rectangle of a `picture`, from the first row and column up to, not including, the last."""
    mask = np.zeros((48, 60), np.uint8, order="F")
    mask[start[0] : end[0], start[1] : end[1]] = 1
    return plain_run_lengths(coco_mask.encode(mask))


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: tensor.numpy() for key, tensor in tensors.items()}


def picture(rng: np.random.Generator) -> np.ndarray:
    """A small random image, 60 pixels wide and 48 high."""
    return rng.integers(0, 255, (48, 60, 3), dtype=np.uint8)
