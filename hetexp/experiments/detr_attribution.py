"""DETR, stage 1: detections and the relevance of every method, image by image, into the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from hetexp.attribution.methods import attribute, observe
from hetexp.data.coco import CocoScenes, ItemError, SceneItem
from hetexp.experiments.chunks import Chunk, ahead, batches, make_chunks
from hetexp.experiments.fill import Attributed, fill
from hetexp.experiments.methods import MethodSpec
from hetexp.experiments.session import Session
from hetexp.experiments.store import Store
from hetexp.models.detr import DetrAdapter
from hetexp.models.trace import AttentionTrace
from hetexp.targets import automatic

log = logging.getLogger("hetexp")

DETECTIONS = "detections"


@dataclass(frozen=True)
class Job:
    """The pieces of one DETR run."""

    scenes: CocoScenes
    chunks: list[Chunk[SceneItem]]
    store: Store


def prepare(session: Session) -> Job:
    """Open the data and the store and cut the items into chunks."""
    cfg = session.cfg
    scenes = CocoScenes(
        f"{cfg.data.root}/{cfg.data.images}", f"{cfg.data.root}/{cfg.data.annotations}", limit=cfg.limit
    )
    adapter = session.adapter
    assert isinstance(adapter, DetrAdapter)
    processor = None if adapter.processor is None else adapter.processor.to_json_string()
    store = session.store(
        keep=cfg.model.keep, odam_feature=cfg.model.odam_feature, processor=processor, autocast=cfg.autocast
    )
    session.facts |= {"dataset": scenes.dataset_digest(), "store": store.key, "checkpoint": session.checkpoint}
    return Job(scenes, make_chunks(scenes.items, cfg.chunk_size, scenes.item_digest), store)


def attribute_all(session: Session, job: Job) -> None:
    """Stage 1: fill the store with detections and the relevance of every method that is not there yet."""
    fill(session, job.chunks, job.store, DETECTIONS, partial(_attribute_chunk, session, job))


@dataclass(frozen=True)
class _Loaded:
    """One image ready for the model."""

    item: SceneItem
    height: int
    width: int
    pixels: Tensor  # [3, input height, input width], on the CPU


def _attribute_chunk(session: Session, job: Job, chunk: Chunk[SceneItem], missing: Sequence[MethodSpec]) -> Attributed:
    """Detections, images and skips of a chunk, and per method the relevance [k, h, w] of every image."""
    adapter, cfg = session.adapter, session.cfg
    assert isinstance(adapter, DetrAdapter)
    target = automatic(cfg.target.name)
    methods = {s.name: s.method for s in missing}
    images: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    skips: list[dict[str, Any]] = []
    relevance: dict[str, dict[str, Tensor]] = {s.name: {} for s in missing}

    def load() -> Iterator[_Loaded]:
        for item in chunk.items:
            try:
                image = job.scenes.load(item)
            except ItemError as error:
                log.warning("skipped: %s", error)
                skips.append({"image_id": item.image_id, "reason": str(error)})
            else:
                yield _Loaded(item, image.height, image.width, adapter.preprocess(image))

    def compute(batch: Sequence[_Loaded]) -> list[_Explained]:
        inputs = adapter.collate([loaded.pixels for loaded in batch])
        traces = observe(adapter, inputs, [[target]] * len(batch), methods, cfg.model.odam_feature)
        out = []
        for loaded, trace in zip(batch, traces, strict=True):
            row = {
                "image_id": loaded.item.image_id,
                "height": loaded.height,
                "width": loaded.width,
                "input_height": loaded.pixels.shape[1],
                "input_width": loaded.pixels.shape[2],
                "kept": trace.n_targets,
            }
            maps = attribute(trace, methods)
            cropped = {name: _crop(m["image"], trace).float().cpu() for name, m in maps.items()}
            out.append(_Explained(row, _detection_rows(loaded.item.image_id, trace), cropped))
        return out

    for batch in ahead(batches(load(), cfg.batch_size)):
        for explained in session.in_memory(compute, batch, lambda loaded: f"image {job.scenes.path(loaded.item)}"):
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


def _crop(relevance: Tensor, trace: AttentionTrace) -> Tensor:
    """The image's own part [k, h', w'] of a padded grid."""
    _, width = trace.layouts["image"].shape
    index = trace.layouts["image"].index
    rows, columns = int(index.max()) // width + 1, int((index % width).max()) + 1
    return relevance[:, :rows, :columns]


def _detection_rows(image_id: int, trace: AttentionTrace) -> list[dict[str, Any]]:
    """Every query's best class, score and box; `target` is its row of relevance, -1 if it was not kept."""
    out = trace.outputs
    probabilities = out["logits"].softmax(-1)[:, :-1]
    scores, labels = (x.cpu().tolist() for x in probabilities.max(-1))
    position = {q: j for j, q in enumerate(out["queries"].tolist())}
    return [
        {
            "image_id": image_id,
            "query": q,
            "target": position.get(q, -1),
            "label": labels[q],
            "score": scores[q],
            **dict(zip("xywh", box, strict=True)),
        }
        for q, box in enumerate(out["boxes"].cpu().tolist())
    ]
