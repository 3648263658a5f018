"""Explanations of single inputs with everything a drawing needs, as folders on disk.

    <folder>/image.png, info.json, relevance.safetensors[, masks.safetensors, levels.safetensors]

relevance: "<method>" [k, h, w] for DETR; "<method>/text" [T] and "<method>/image" [R] for LXMERT.
masks: "<method>@<scale>" uint8 [k, H, W]. levels: "<method>" uint8 [k, h, w], what Otsu's threshold sees.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from hetexp.attribution.methods import Method, attribute, observe
from hetexp.errors import DataError, InputError
from hetexp.evaluation.masks import otsu_thresholds, segment, to_uint8
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.trace import Target

TOP_ANSWERS = 5


@dataclass
class Explanation:
    """One explained input."""

    image: Image.Image
    info: dict[str, Any]
    relevance: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    levels: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """One detection: box in pixels (x1, y1, x2, y2)."""

    query: int
    label: str
    score: float
    box: tuple[float, float, float, float]


def detect(adapter: DetrAdapter, image: Image.Image) -> list[Found]:
    """Every query's best class, by falling probability."""
    logits, boxes = adapter.detect(adapter.prepare([image]))
    scores, classes = logits[0].softmax(-1)[:, :-1].max(-1)
    found = []
    for query in scores.argsort(descending=True).tolist():
        cx, cy, w, h = boxes[0, query].tolist()
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        x1, y1, x2, y2 = (
            min(max(v, 0.0), 1.0) * side for v, side in zip(corners, (*image.size, *image.size), strict=True)
        )
        label = adapter.labels[int(classes[query])]
        found.append(Found(query, label, float(scores[query]), (x1, y1, x2, y2)))
    return found


def explain_detections(
    adapter: DetrAdapter,
    image: Image.Image,
    found: Sequence[Found],
    targets: Sequence[Target],
    methods: Mapping[str, Method],
    scales: Sequence[float],
    upsample: str = "reference",
    odam_feature: str | None = None,
) -> Explanation:
    """Relevance and masks of several detections of one image, one target each.

    Raises:
        InputError: without a detection.
    """
    if not found:
        raise InputError("there is no detection to explain: lower model.keep, or take another image")
    inputs = adapter.prepare([image])
    (trace,) = observe(adapter, inputs, [targets], methods, odam_feature)
    maps = {name: m["image"].float().cpu() for name, m in attribute(trace, methods).items()}
    input_size = tuple(inputs["pixel_values"].shape[-2:])
    masks = {
        f"{name}@{scale:g}": segment(relevance, scale, input_size, image.size[::-1], upsample).to(torch.uint8)
        for name, relevance in maps.items()
        if bool(relevance.isfinite().all())
        for scale in scales
    }
    finite = {name: torch.where(relevance.isfinite(), relevance, 0) for name, relevance in maps.items()}
    levels = {name: to_uint8(relevance) for name, relevance in finite.items()}
    info = {
        "kind": "detr",
        "detections": [{"query": f.query, "label": f.label, "score": f.score, "box": list(f.box)} for f in found],
        "methods": list(maps),
        "scales": list(scales),
        "upsample": upsample,
        "input_size": list(input_size),
        "otsu": {name: otsu_thresholds(u8).tolist() for name, u8 in levels.items()},
    }
    return Explanation(image, info, maps, masks, levels)


def answer(adapter: LxmertAdapter, inputs: Mapping[str, Tensor]) -> tuple[list[int], list[dict[str, Any]]]:
    """All answers from best to worst, and the best ones with logit and probability."""
    logits = adapter.predict(inputs)[0].double().cpu()
    order = logits.argsort(descending=True).tolist()
    probabilities = logits.softmax(-1)
    top = [
        {"answer": answer_name(adapter, i), "logit": float(logits[i]), "probability": float(probabilities[i])}
        for i in order[:TOP_ANSWERS]
    ]
    return order, top


def answer_name(adapter: LxmertAdapter, index: int) -> str:
    """The answer's text, or its number where the checkpoint has no answer list."""
    return str(index) if adapter.answers is None else adapter.answers[index]


def question_inputs(adapter: LxmertAdapter, question: str, features: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Model inputs of one question, batch 1; features [R, D], boxes [R, 4] in units of the image's sides.

    Raises:
        InputError: if the features have another width than the checkpoint reads.
    """
    wanted = adapter.model.config.visual_feat_dim
    if features.shape[1] != wanted:
        raise InputError(
            f"region features have {features.shape[1]} numbers, this checkpoint reads {wanted}: use the features it "
            "was trained with"
        )
    return {
        "input_ids": torch.tensor([adapter.tokenize(question)]),
        "visual_feats": features[None].to(adapter.dtype),
        "visual_pos": boxes[None].to(adapter.dtype),
    }


def explain_answer(
    adapter: LxmertAdapter,
    image: Image.Image,
    question: str,
    features: Tensor,
    boxes: Tensor,
    targets: Mapping[str, Target],
    methods: Mapping[str, Method],
    odam_feature: str | None = None,
) -> Explanation:
    """Relevance of words and regions for one question and one or several targets.

    Args:
        targets: name -> target; the maps of the first are stored as "<method>/...", those of the others as
            "<method>:<name>/...".
    """
    inputs = question_inputs(adapter, question, features, boxes)
    _, top = answer(adapter, inputs)
    (trace,) = observe(adapter, inputs, [list(targets.values())], methods, odam_feature)
    found = attribute(trace, methods)
    relevance = {}
    for row, target in enumerate(targets):
        for name, streams in found.items():
            key = name if row == 0 else f"{name}:{target}"
            for stream, values in streams.items():
                relevance[f"{key}/{stream}"] = values[row].float().cpu()
            relevance[f"{key}/text"][0] = 0  # the explained token's own entry
    width, height = image.size
    assert adapter.tokenizer is not None
    info = {
        "kind": "lxmert",
        "question": question,
        "tokens": adapter.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()),
        "answers": top,
        "boxes": (boxes.float() * torch.tensor([width, height, width, height])).tolist(),
        "methods": list(found),
        "targets": list(targets),
    }
    return Explanation(image, info, relevance)


def write_explanation(folder: Path, explanation: Explanation) -> None:
    """Write an explanation's files into a new folder."""
    folder.mkdir(parents=True)
    explanation.image.convert("RGB").save(folder / "image.png")
    save_file({k: v.contiguous() for k, v in explanation.relevance.items()}, folder / "relevance.safetensors")
    for name, tensors in (("masks", explanation.masks), ("levels", explanation.levels)):
        if tensors:
            save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    text = json.dumps(explanation.info, indent=1, ensure_ascii=False)
    (folder / "info.json").write_text(text + "\n", encoding="utf-8")


def replace_folder(folder: Path, explanations: Mapping[str, Explanation], about: Mapping[str, Any]) -> None:
    """Write explanations by name as one folder, whole or not at all; what lay there before is replaced.

    Raises:
        DataError: if the disk refuses; what lay there before is intact.
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        for name, explanation in explanations.items():
            write_explanation(temporary / name, explanation)
        index = {**about, "items": list(explanations)}
        (temporary / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            old = folder.with_name(f".{folder.name}-old-{os.getpid()}")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error}): free some space or choose another paths.outputs") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
