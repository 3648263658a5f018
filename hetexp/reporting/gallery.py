"""What the report's gallery needs, small enough to travel inside the page: maps as numbers, drawn by the browser."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from hetexp.reporting.figures.style import DIVERGING, SEQUENTIAL
from hetexp.reporting.names import in_order, is_signed, method_name
from hetexp.reporting.samples import SampleSet, StoredExplanation

ACCEPTED = 0.5  # the annotators' score from which on an answer counts as correct

# What the paper's figures of questions show, by the keys of relevance.
FIGURE_NAMES = {
    "homologous": "Homologous parts, abs (Figure 7)",
    "ours_full:difference": "Ours (full), difference (Figure 8b)",
    "ours_full": "Ours (full), logit (Figure 8a)",
}


def payload(found: Mapping[str, SampleSet]) -> dict[str, Any]:
    """Everything the page's script reads."""
    shown = {
        "detection": [_detections(s) for s in _all(found, "detection") if s.levels],
        "vqa": [_question(s, number) for number, s in enumerate(_all(found, "vqa"))],
    }
    keys = {kind: dict.fromkeys(key for item in items for key in item["maps"]) for kind, items in shown.items()}
    labels = {
        "detection": {m: method_name(m) for m in keys["detection"]},
        "vqa": {key: _label(key) for key in keys["vqa"]},
    }
    return {"sequential": _colours(SEQUENTIAL), "diverging": _colours(DIVERGING), "labels": labels, **shown}


def _all(found: Mapping[str, SampleSet], kind: str) -> list[StoredExplanation]:
    return [*found[kind].samples, *found[kind].further] if kind in found else []


def _label(key: str) -> str:
    """Printed name of "<method>" or "<method>:<target>"."""
    method, _, target = key.partition(":")
    name = method_name(method)
    return FIGURE_NAMES.get(key, f"{name}, {target}" if target else name)


def as_json(data: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _colours(name: str) -> str:
    """256 RGB colours of a map, 3 bytes each."""
    table = mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return _base64((255 * table).round().astype(np.uint8).tobytes())


def _image(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{_base64(buffer.getvalue())}"


def _detections(sample: StoredExplanation) -> dict[str, Any]:
    methods = in_order(sample.levels)
    grid = next(iter(sample.levels.values())).shape[1:]
    count = len(sample.info["detections"])
    known = sample.info.get("objects") or [{}] * count  # samples of data that is not annotated, or made before
    objects = sample.objects if "objects" in sample.info else [None] * count
    return {
        "id": str(sample.info["item"]),
        "image": _image(sample.ground),
        "grid": list(grid),
        "input": sample.info["input_size"],
        "detections": [
            {
                "label": d["label"],
                "score": round(d["score"], 4),
                "box": [round(v, 1) for v in d["box"]],
                "correct": said.get("correct"),
                "size": said.get("size"),
                "object": None if thing is None else run_lengths(thing.mask),
            }
            for d, said, thing in zip(sample.info["detections"], known, objects, strict=True)
        ],
        "maps": {
            m: {"levels": [_base64(level.tobytes()) for level in sample.levels[m]], "otsu": sample.info["otsu"][m]}
            for m in methods
        },
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask bool [H, W]: column by column, pixels outside and inside in turn, outside first."""
    pixels = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(pixels)) + 1
    lengths: list[int] = np.diff([0, *ends, pixels.size]).tolist()
    return [0, *lengths] if pixels[0] else lengths


def _question(sample: StoredExplanation, number: int) -> dict[str, Any]:
    keys = sample.methods
    keys += [f"{m}:{t}" for m in sample.methods if is_signed(m) for t in sample.further_targets(m)]
    shown = [key for key in keys if _finite(sample, key)]
    best = sample.info["answers"][0]["answer"]
    accepted = sample.info.get("accepted")
    return {
        "id": f"{sample.info['item']}-{number}",
        "item": str(sample.info["item"]),
        "question": sample.info["question"],
        "answer": best,
        "answers": ", ".join(f"{a['answer']} {a['probability']:.2f}" for a in sample.info["answers"][:3]),
        "correct": None if accepted is None else accepted.get(best, 0.0) >= ACCEPTED,
        "image": _image(sample.ground),
        "boxes": [[round(v, 1) for v in box] for box in sample.regions.tolist()],
        "tokens": sample.tokens,
        "maps": {k: {s: _numbers(sample.relevance[f"{k}/{s}"]) for s in ("image", "text")} for k in shown},
    }


def _finite(sample: StoredExplanation, key: str) -> bool:
    return all(bool(np.isfinite(sample.relevance[f"{key}/{s}"]).all()) for s in ("image", "text"))


def _numbers(values: np.ndarray) -> list[float]:
    return [float(f"{v:.4g}") for v in values.ravel().tolist()]
