"""Insertion and deletion: what becomes of a detection as the image's cells go or come in the order of a map.

Petsiuk et al., BMVC 2018 (doi:10.48550/arXiv.1806.07421): deletion replaces the most relevant cells first, by the mean
colour; insertion starts from a blurred image and brings the most relevant cells back first. A step is one forward pass,
so a map costs twice as many passes as there are steps, run in batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from hetexp.data.coco import ItemError
from hetexp.evaluation.statistics import trapezoid_auc
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.models.protocols import Detections, Detector

FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the cells, changed or brought back
BATCH = 32  # forward passes at a time
BLUR = 0.25  # side of the window that insertion starts from, in units of the image's shorter side


def deletion(session: Session, record: ItemRecord) -> list[Result]:
    """Areas under the curves of the class's logit and of the box, per method; each 0..1.

    The logit of the detected class at the detection's own query stands between its value on the start and on the end of
    the curve; a detection whose class has no larger logit on the image than without it is left out, for all methods
    alike. The box is compared with that on the whole image, by IoU.
    """
    adapter: Detector = session.adapter
    rows: dict[tuple[str, str], list[float]] = {}
    items: list[str] = []
    images: list[str] = []
    stored = _stored(session)
    for item in session.data.items:
        maps = {spec.name: stored[spec.name].get(str(item.image_id)) for spec in session.methods}
        try:
            pixels = adapter.preprocess(session.data.load(item)).to(adapter.device, adapter.dtype)
        except ItemError:
            continue  # said when its relevance was computed
        ends = torch.stack([pixels, torch.zeros_like(pixels), _blurred(pixels)])
        whole, empty, blurred = adapter.detect({"pixel_values": ends})
        kept = (whole.scores > adapter.score_threshold).nonzero().flatten().tolist()
        for row, query in enumerate(kept):
            label = int(whole.labels[query])
            starts = {"deletion": empty, "insertion": blurred}
            spans = {k: float(whole.logits[query, label] - start.logits[query, label]) for k, start in starts.items()}
            if min(spans.values()) <= 0:
                continue
            items.append(f"{item.image_id}:{row}")
            images.append(str(item.image_id))
            for spec in session.methods:
                relevance = maps[spec.name]
                assert relevance is not None
                for kind, base in (("deletion", ends[1]), ("insertion", ends[2])):
                    found = _curve(adapter, pixels, base, relevance[row], kind == "insertion")
                    of_class = [
                        float(f.logits[query, label] - starts[kind].logits[query, label]) / spans[kind] for f in found
                    ]
                    of_box = [_iou(f.boxes[query], whole.boxes[query]) for f in found]
                    for what, values in (("class", of_class), ("box", of_box)):
                        area = float(trapezoid_auc(FRACTIONS, values))
                        rows.setdefault((spec.name, f"{kind}_{what}"), []).append(area)
    return [
        record.mean(spec, ItemValues("deletion", metric, np.array(values), items, images))
        for spec in session.methods
        for (name, metric), values in rows.items()
        if name == spec.name
    ]


def _stored(session: Session) -> dict[str, dict[str, Tensor]]:
    """Method -> image -> maps [k, h, w]."""
    return {
        spec.name: {
            image: maps
            for chunk in session.chunk_names
            for image, maps in session.store.read(chunk, spec.unit, spec.settings).tensors.items()
        }
        for spec in session.methods
    }


def steps_of(relevance: Tensor, fractions: Sequence[float]) -> Tensor:
    """Which cells are among the most relevant at each fraction, bool [s, h, w]; ties fall in reading order."""
    order = relevance.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    counts = torch.tensor([round(f * len(order)) for f in fractions], device=order.device)
    return (rank < counts[:, None]).view(-1, *relevance.shape)


def _curve(adapter: Detector, pixels: Tensor, base: Tensor, relevance: Tensor, insert: bool) -> list[Detections]:
    """Detections at every fraction."""
    cells = steps_of(relevance.to(pixels.device), FRACTIONS)
    chosen = interpolate(cells[:, None].to(pixels), size=pixels.shape[1:], mode="nearest") > 0.5
    shown = chosen if insert else ~chosen
    images = torch.where(shown, pixels, base)
    return [found for part in images.split(BATCH) for found in adapter.detect({"pixel_values": part})]


def _blurred(pixels: Tensor) -> Tensor:
    side = 2 * round(BLUR * min(pixels.shape[1:]) / 2) + 1
    return avg_pool2d(pixels[None], side, 1, side // 2, count_include_pad=False)[0]


def _iou(one: Tensor, other: Tensor) -> float:
    """IoU of two boxes: centre x, centre y, width, height."""
    low = torch.maximum(one[:2] - one[2:] / 2, other[:2] - other[2:] / 2)
    high = torch.minimum(one[:2] + one[2:] / 2, other[:2] + other[2:] / 2)
    common = float((high - low).clamp(min=0).prod())
    either = float(one[2:].prod() + other[2:].prod()) - common
    return common / either if either > 0 else 0.0
