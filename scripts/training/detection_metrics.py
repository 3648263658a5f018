"""How well a DETR detects the rendered scenes: COCO's box metrics, precision and recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import DetrForObjectDetection
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.data.regions.features import MEAN, STD
from hetexp.data.synthetic.training_arrays import LONG_SIDE, SHORT_SIDE

SCORE_THRESHOLD = 0.5  # a query counts as a detection above this probability


def processor() -> DetrImageProcessorPil:
    """The image processor that goes with the checkpoint."""
    size = {"shortest_edge": SHORT_SIDE, "longest_edge": LONG_SIDE}
    return DetrImageProcessorPil(size=size, image_mean=list(MEAN), image_std=list(STD))


@torch.no_grad()
def detections(model: DetrForObjectDetection, scenes: Path, coco: COCO, ids: list[int]) -> list[dict[str, Any]]:
    """Every query of every image as a COCO result."""
    prepare, device = processor(), model.device
    category = {c["name"]: c["id"] for c in coco.dataset["categories"]}
    results = []
    for image_id in ids:
        with Image.open(scenes / "images" / coco.imgs[image_id]["file_name"]) as image:
            inputs = prepare(images=image.convert("RGB"), return_tensors="pt").to(device)
            width, height = image.size
        out = model(**inputs)
        scores, classes = out.logits[0].softmax(-1)[:, :-1].max(-1)
        cx, cy, w, h = (out.pred_boxes[0].cpu() * torch.tensor([width, height, width, height])).unbind(-1)
        boxes = torch.stack([cx - w / 2, cy - h / 2, w, h], -1).tolist()
        for score, label, box in zip(scores.tolist(), classes.tolist(), boxes, strict=True):
            found = category[model.config.id2label[label]]
            results.append({"image_id": image_id, "category_id": found, "bbox": box, "score": score})
    return results


def evaluate(model: DetrForObjectDetection, scenes: Path, limit: int | None = None) -> dict[str, float]:
    """Box AP in percent, and precision and recall (IoU 0.5, right class) of the queries kept at p > 0.5."""
    coco = COCO(str(scenes / "annotations.json"))
    ids = sorted(coco.imgs)[:limit]
    results = detections(model, scenes, coco, ids)
    scorer = COCOeval(coco, coco.loadRes(results), "bbox")
    scorer.params.imgIds = ids
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    metrics = {name: 100 * float(value) for name, value in zip(names, scorer.stats[:6], strict=True)}

    kept = COCOeval(coco, coco.loadRes([r for r in results if r["score"] > SCORE_THRESHOLD] or results[:1]), "bbox")
    kept.params.imgIds, kept.params.iouThrs = ids, np.array([0.5])
    kept.params.areaRng, kept.params.areaRngLbl = [kept.params.areaRng[0]], ["all"]
    kept.evaluate()
    pairs = [e for e in kept.evalImgs if e is not None]
    hits = sum(int((e["dtMatches"] > 0).sum()) for e in pairs)
    metrics["precision"] = hits / max(1, sum(len(e["dtIds"]) for e in pairs))
    metrics["recall"] = hits / max(1, sum(len(e["gtIds"]) for e in pairs))
    return metrics
