"""DETR: weakly supervised segmentation from the store (Tables 1 and 2)."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from hetexp.config import scales
from hetexp.data.coco import category_ids, category_of
from hetexp.evaluation.coco import evaluate_segm
from hetexp.evaluation.masks import encode, otsu_thresholds_of, segment, to_uint8
from hetexp.experiments.chunks import progress_bar
from hetexp.experiments.detr_attribution import DETECTIONS, Job, attribute_all, prepare
from hetexp.experiments.merge import write_manifest
from hetexp.experiments.session import Session
from hetexp.models.detr import DetrAdapter

METRICS = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")


def evaluate_all(session: Session, job: Job) -> list[dict[str, Any]]:
    """Stage 2: masks at every threshold and their COCO scores, from the store alone."""
    images, skipped = _read_images(session, job)
    image_ids = [image.image_id for image in images]
    rows: list[dict[str, Any]] = []
    settings = scales(session.cfg)
    with progress_bar(session.cfg.progress) as progress:
        task = progress.add_task("evaluate ", total=len(session.methods) * len(settings))
        for spec in session.methods:
            thresholds = _thresholds(job, spec)
            for scale in settings:
                submitted, counts = _submit(session, job, spec, scale, images, thresholds)
                scores = evaluate_segm(job.scenes.coco, submitted, image_ids)
                for metric in METRICS:
                    value = scores[metric]
                    rows.append(
                        {
                            **session.row(spec, scale),
                            "panel": "segm",
                            "metric": metric,
                            "value": None if value is None else 100 * value,
                            "n": len(image_ids),
                        }
                    )
                counts = {"images": len(images), "skipped_images": skipped, **counts}
                session.facts.setdefault("counts", {})[f"{spec.name}@{scale:g}"] = counts
                progress.advance(task)
    return rows


@dataclass(frozen=True)
class _Stored:
    """One image as evaluation needs it, the same for all methods and scales; sizes are (height, width)."""

    image_id: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    detections: list[tuple[int, int | None, float]]  # row of relevance or -1, COCO category, score


def _read_images(session: Session, job: Job) -> tuple[list[_Stored], int]:
    """All images of the store in order, with the detections that count; and how many images were skipped."""
    adapter = session.adapter
    assert isinstance(adapter, DetrAdapter)
    labels = category_ids(adapter.labels, job.scenes.coco)
    images: list[_Stored] = []
    skipped = 0
    for chunk in job.chunks:
        tables = job.store.read(job.store.unit(chunk.name, DETECTIONS)).tables
        skipped += len(tables["skips"])
        found = tables["detections"]
        if not session.cfg.model.submit_unkept:
            found = found[found["target"] >= 0]
        of_image: dict[int, list[tuple[int, int | None, float]]] = {}
        for row in found.itertuples():
            category = category_of(int(row.label), labels, adapter.labels)
            of_image.setdefault(int(row.image_id), []).append((int(row.target), category, float(row.score)))
        images += [
            _Stored(
                int(row.image_id),
                (int(row.height), int(row.width)),
                (int(row.input_height), int(row.input_width)),
                of_image.get(int(row.image_id), []),
            )
            for row in tables["images"].itertuples()
        ]
    return images, skipped


def _thresholds(job: Job, spec: Any) -> dict[int, Tensor]:
    """Otsu's threshold of every map of a method, by image: the same at all scales."""
    found: dict[int, Tensor] = {}
    for tensors in _relevance(job, spec):
        groups = [to_uint8(_finite(relevance)[0]) for relevance in tensors.values()]
        found |= zip(map(int, tensors), otsu_thresholds_of(groups), strict=True)
    return found


def _relevance(job: Job, spec: Any) -> Iterator[dict[str, Tensor]]:
    """Chunk by chunk, a method's relevance [k, h, w] by image id."""
    for chunk in job.chunks:
        yield job.store.read(job.store.unit(chunk.name, spec.name, spec.settings)).tensors


def _finite(relevance: Tensor) -> tuple[Tensor, int]:
    """Maps [k, h, w] with those that are not finite set to 0, which gives empty masks; and how many those are."""
    finite = relevance.flatten(1).isfinite().all(1)
    return torch.where(finite[:, None, None], relevance, 0), int((~finite).sum())


def _submit(
    session: Session, job: Job, spec: Any, scale: float, images: Sequence[_Stored], thresholds: dict[int, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Detections in COCO's result form, and what was counted on the way."""
    submitted: list[dict[str, Any]] = []
    counts = {"no_kept_query": 0, "not_finite": 0, "empty_masks": 0, "masks": 0}
    following = iter(images)
    for tensors in _relevance(job, spec):
        for image in islice(following, len(tensors)):
            clean, spoilt = _finite(tensors[str(image.image_id)])
            masks = segment(
                clean,
                scale,
                image.input_size,
                image.size,
                session.cfg.threshold.upsample,
                thresholds[image.image_id],
            )
            counts["not_finite"] += spoilt
            counts["no_kept_query"] += len(masks) == 0
            counts["masks"] += len(masks)
            counts["empty_masks"] += int((~masks.flatten(1).any(1)).sum())
            codes = encode(masks)
            unkept = (
                encode(torch.zeros(1, *image.size, dtype=torch.bool))[0] if len(codes) < len(image.detections) else {}
            )
            submitted += [
                {
                    "image_id": image.image_id,
                    "category_id": category,
                    "segmentation": codes[target] if target >= 0 else unkept,
                    "score": score,
                }
                for target, category, score in image.detections
            ]
    return submitted, counts


def pictures(session: Session, job: Job, count: int) -> Iterator[tuple[str, Image]]:
    """The first images with detections, each detection's mask in a colour of its own; caption and picture."""
    spec, scale = session.methods[0], scales(session.cfg)[0]
    items = {item.image_id: item for item in job.scenes.items}
    for chunk in job.chunks:
        tables = job.store.read(job.store.unit(chunk.name, DETECTIONS)).tables
        tensors = job.store.read(job.store.unit(chunk.name, spec.name, spec.settings)).tensors
        for row in tables["images"].query("kept > 0").itertuples():
            if count == 0:
                return
            count -= 1
            size = (int(row.height), int(row.width))
            relevance = torch.nan_to_num(tensors[str(row.image_id)], 0, 0, 0)
            masks = segment(
                relevance, scale, (int(row.input_height), int(row.input_width)), size, session.cfg.threshold.upsample
            )
            pixels = np.asarray(job.scenes.load(items[row.image_id])) / 255
            shade = pixels.mean(2, keepdims=True).repeat(3, 2) * 0.5
            for number, mask in enumerate(masks.numpy()):
                colour = np.array(colorsys.hsv_to_rgb(number * 0.618 % 1, 0.8, 1.0))
                shade = np.where(mask[:, :, None], 0.55 * pixels + 0.45 * colour, shade)
            caption = f"image {row.image_id}: {spec.name}, {row.kept} detections, scale {scale:g}"
            yield caption, fromarray((255 * shade).round().astype(np.uint8))


def run(session: Session) -> list[dict[str, Any]]:
    """Both stages; a shard only fills its part of the store."""
    job = prepare(session)
    attribute_all(session, job)
    if session.shard[1] > 1:
        write_manifest(session, job.store, job.chunks)
        return []
    session.pictures = partial(pictures, session, job)
    return evaluate_all(session, job)
