"""How well a detector detects the rendered scenes: COCO's box metrics, precision and recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import Architecture
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import PreTrainedModel


@torch.no_grad()
def detections(
    architecture: Architecture, model: PreTrainedModel, scenes: Path, coco: COCO, ids: list[int]
) -> list[dict[str, Any]]:
    """Every query of every image as a COCO result, with its most probable class."""
    prepare, device = architecture.image_processor(), model.device
    category = {c["name"]: c["id"] for c in coco.dataset["categories"]}
    results = []
    for image_id in ids:
        with Image.open(scenes / "images" / coco.imgs[image_id]["file_name"]) as image:
            inputs = prepare(images=image.convert("RGB"), return_tensors="pt").to(device)
            width, height = image.size
        out = model(**inputs)
        scores, classes = architecture.probabilities(out.logits[0]).max(-1)
        cx, cy, w, h = (out.pred_boxes[0].cpu() * torch.tensor([width, height, width, height])).unbind(-1)
        boxes = torch.stack([cx - w / 2, cy - h / 2, w, h], -1).tolist()
        for score, label, box in zip(scores.tolist(), classes.tolist(), boxes, strict=True):
            found = category[model.config.id2label[label]]
            results.append({"image_id": image_id, "category_id": found, "bbox": box, "score": score})
    return results


def precision_and_recall(
    coco: COCO, ids: list[int], results: list[dict[str, Any]], threshold: float
) -> tuple[float, float]:
    """Of the detections above a score: the share that is right (IoU 0.5, right class), and the objects they find."""
    kept = [r for r in results if r["score"] > threshold]
    if not kept:
        return 0.0, 0.0
    scorer = COCOeval(coco, coco.loadRes(kept), "bbox")
    scorer.params.imgIds, scorer.params.iouThrs = ids, np.array([0.5])
    scorer.params.areaRng, scorer.params.areaRngLbl = [scorer.params.areaRng[0]], ["all"]
    scorer.evaluate()
    pairs = [e for e in scorer.evalImgs if e is not None]
    hits = sum(int((e["dtMatches"] > 0).sum()) for e in pairs)
    return hits / sum(len(e["dtIds"]) for e in pairs), hits / max(1, sum(len(e["gtIds"]) for e in pairs))


def evaluate(
    architecture: Architecture, model: PreTrainedModel, scenes: Path, limit: int | None = None
) -> dict[str, float]:
    """Box AP in percent, and precision and recall at the architecture's thresholds, as `precision@0.5`.

    Args:
        architecture: of the model.
        model: a detector in evaluation mode.
        scenes: folder with annotations.json and images.
        limit: measure the first so many scenes; None measures all.
    """
    coco = COCO(str(scenes / "annotations.json"))
    ids = sorted(coco.imgs)[:limit]
    results = detections(architecture, model, scenes, coco, ids)
    scorer = COCOeval(coco, coco.loadRes(results), "bbox")
    scorer.params.imgIds = ids
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    metrics = {name: 100 * float(value) for name, value in zip(names, scorer.stats[:6], strict=True)}
    for threshold in architecture.thresholds:
        found = precision_and_recall(coco, ids, results, threshold)
        metrics[f"precision@{threshold:g}"], metrics[f"recall@{threshold:g}"] = found
    return metrics
