"""Sample pictures of a detection run, for loggers: each detection's mask in a colour of its own."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator

import numpy as np
from PIL.Image import Image, fromarray

from hetexp.evaluation.masks import finite_maps, segment
from hetexp.experiments.detection.attribution import DETECTIONS
from hetexp.experiments.engine.session import Session


def overlays(session: Session, count: int) -> Iterator[tuple[str, Image]]:
    """Caption and picture of the first images with detections."""
    spec, scale = session.methods[0], session.scales[0]
    items = {item.image_id: item for item in session.data.items}
    for chunk in session.chunk_names:
        rows = session.store.read(chunk, DETECTIONS).tables["images"].query("kept > 0")
        tensors = session.store.read(chunk, spec.unit, spec.settings).tensors
        for row in rows.itertuples():
            if count == 0:
                return
            count -= 1
            relevance, _ = finite_maps(tensors[str(row.image_id)])
            sizes = (int(row.input_height), int(row.input_width)), (int(row.height), int(row.width))
            upsample, tie = session.cfg.threshold.upsample, session.cfg.threshold.tie
            masks = segment(relevance, scale, *sizes, upsample, tie=tie, strategy=session.strategy)
            pixels = np.asarray(session.data.load(items[row.image_id])) / 255
            shade = pixels.mean(2, keepdims=True).repeat(3, 2) * 0.5
            for number, mask in enumerate(masks.numpy()):
                colour = np.array(colorsys.hsv_to_rgb(number * 0.618 % 1, 0.8, 1.0))
                shade = np.where(mask[:, :, None], 0.55 * pixels + 0.45 * colour, shade)
            caption = (
                f"image {row.image_id}: {spec.name}, {row.kept} detections, {session.strategy.name}, scale {scale:g}"
            )
            yield caption, fromarray((255 * shade).round().astype(np.uint8))
