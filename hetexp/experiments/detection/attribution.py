"""Stage 1 of detection: detections and the relevance of every method, image by image, into the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from hetexp.attribution.attribute import attribute, observe, pictures
from hetexp.data.coco import ItemError, SceneItem
from hetexp.data.registry import DetectionData
from hetexp.experiments.engine.chunks import Chunk, batches, make_chunks, prefetch
from hetexp.experiments.engine.compute import Attributed, compute_missing
from hetexp.experiments.engine.host import on_host
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.session import Session
from hetexp.models.protocols import Detections, Detector
from hetexp.models.trace import AttentionTrace

log = logging.getLogger("hetexp")

DETECTIONS = "detections"


def attribute_all(session: Session) -> None:
    """Compute the detections and relevance that are not stored yet."""
    data: DetectionData = session.data
    session.facts |= {"dataset": data.dataset_digest(), "store": session.store.key, "checkpoint": session.checkpoint}
    chunks = make_chunks(data.items, session.cfg.chunk_size, data.item_digest)
    retry = OutOfMemoryRetry(
        f"free memory on {session.adapter.device}, take another device, or raise model.score_threshold="
        f"{session.adapter.score_threshold:g} so that fewer detections are explained"
    )
    compute_missing(session, chunks, DETECTIONS, partial(_attribute_chunk, session, data, retry))


@dataclass(frozen=True)
class _Loaded:
    """One image ready for the model."""

    item: SceneItem
    height: int
    width: int
    pixels: Tensor  # [3, input height, input width], on the CPU


def _attribute_chunk(
    session: Session,
    data: DetectionData,
    retry: OutOfMemoryRetry,
    chunk: Chunk[SceneItem],
    missing: Sequence[MethodSpec],
) -> Attributed:
    """Detections, images and skips of a chunk, and per method the relevance [k, h, w] of every image."""
    adapter: Detector = session.adapter
    target = session.target
    methods = {s.name: s.method for s in missing}
    images: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    skips: list[dict[str, Any]] = []
    relevance: dict[str, dict[str, Tensor]] = {s.name: {} for s in missing}

    def load() -> Iterator[_Loaded]:
        for item in chunk.items:
            try:
                image = data.load(item)
            except ItemError as error:
                log.warning("skipped: %s", error)
                skips.append({"image_id": item.image_id, "reason": str(error)})
            else:
                yield _Loaded(item, image.height, image.width, adapter.preprocess(image))

    def compute(batch: Sequence[_Loaded]) -> list[_Explained]:
        inputs = adapter.collate([loaded.pixels for loaded in batch])
        traces = observe(adapter, inputs, [[target]] * len(batch), methods)
        found = [pictures(trace, attribute(trace, methods)) for trace in traces]
        maps = on_host(
            [
                {name: trace.layouts["image"].crop(m["image"]).float() for name, m in of_image.items()}
                for trace, of_image in zip(traces, found, strict=True)
            ]
        )
        detected = on_host([_detected(trace) for trace in traces])
        return [
            _Explained(
                {
                    "image_id": loaded.item.image_id,
                    "height": loaded.height,
                    "width": loaded.width,
                    "input_height": loaded.pixels.shape[1],
                    "input_width": loaded.pixels.shape[2],
                    "kept": len(of_image["explained"]),
                },
                _detection_rows(loaded.item.image_id, of_image),
                relevance,
            )
            for loaded, of_image, relevance in zip(batch, detected, maps, strict=True)
        ]

    for batch in prefetch(batches(load(), session.cfg.batch_size)):
        for explained in retry(compute, batch, lambda loaded: f"image {data.path(loaded.item)}"):
            images.append(explained.image)
            detections += explained.detections
            for name, maps in explained.relevance.items():
                relevance[name][str(explained.image["image_id"])] = maps
    tables = {
        "images": pd.DataFrame(images, columns=["image_id", "height", "width", "input_height", "input_width", "kept"]),
        "detections": pd.DataFrame(
            detections, columns=["image_id", "query", "target", "label", "score", "x", "y", "w", "h"]
        ),
        "skips": pd.DataFrame(skips, columns=["image_id", "reason"]),
    }
    return Attributed(tables, relevance)


@dataclass(frozen=True)
class _Explained:
    """Rows and relevance of one image."""

    image: dict[str, Any]
    detections: list[dict[str, Any]]
    relevance: dict[str, Tensor]


def _detected(trace: AttentionTrace) -> dict[str, Tensor]:
    """What is stored of every query [Q, ...], and which of them were explained [k]."""
    found: Detections = trace.outputs["detections"]
    return {"scores": found.scores, "labels": found.labels, "boxes": found.boxes, "explained": trace.rows}


def _detection_rows(image_id: int, detected: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Every query's best class, score and box; `target` is its row of relevance, -1 if it was not kept."""
    scores, labels, boxes = (detected[name].tolist() for name in ("scores", "labels", "boxes"))
    position = {q: j for j, q in enumerate(detected["explained"].tolist())}
    return [
        {
            "image_id": image_id,
            "query": q,
            "target": position.get(q, -1),
            "label": labels[q],
            "score": scores[q],
            **dict(zip("xywh", box, strict=True)),
        }
        for q, box in enumerate(boxes)
    ]
