"""DETR: weakly supervised segmentation from the store (Tables 1 and 2)."""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray

from hetexp.config import scales
from hetexp.data.coco import category_ids
from hetexp.evaluation.masks import segment
from hetexp.experiments.chunks import progress_bar, report_skips
from hetexp.experiments.detr_attribution import DETECTIONS, Job, attribute_all, prepare
from hetexp.experiments.detr_scores import Scorer, read_images, scored
from hetexp.experiments.merge import write_manifest
from hetexp.experiments.session import Session
from hetexp.models.detr import DetrAdapter

log = logging.getLogger("hetexp")

METRICS = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")


def evaluate_all(session: Session, job: Job) -> list[dict[str, Any]]:
    """Stage 2: masks at every threshold and their COCO scores, from the store alone."""
    adapter = session.adapter
    assert isinstance(adapter, DetrAdapter)
    labels = category_ids(adapter.labels, job.scenes.coco)
    chunks = [chunk.name for chunk in job.chunks]
    images, skipped = read_images(job.store, chunks, labels, adapter.labels, session.cfg.model.submit_unkept)
    report_skips("images", len(images), skipped)
    scorer = Scorer(job.store, chunks, images, job.scenes.coco, session.cfg.threshold.upsample)
    wanted = [(spec, scale) for spec in session.methods for scale in scales(session.cfg)]
    rows: list[dict[str, Any]] = []
    with progress_bar(session.cfg.progress) as progress:
        task = progress.add_task("evaluate ", total=len(wanted))
        for (spec, scale), (scores, counts) in zip(wanted, scored(scorer, wanted, session.cfg.workers), strict=True):
            for metric in METRICS:
                value = scores[metric]
                rows.append(
                    {
                        **session.row(spec, scale),
                        "panel": "segm",
                        "metric": metric,
                        "value": None if value is None else 100 * value,
                        "n": len(images),
                    }
                )
            counts = {"images": len(images), "skipped_images": len(skipped), **counts}
            session.facts.setdefault("counts", {})[f"{spec.name}@{scale:g}"] = counts
            if counts["masks"] == 0:
                log.warning("%s: no image has a detection with p > model.keep=%g", spec.name, session.cfg.model.keep)
            progress.advance(task)
    return rows


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
