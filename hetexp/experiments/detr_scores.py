"""Masks of all kept detections at one threshold and their COCO scores, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from torch import Tensor

from hetexp.data.coco import category_of
from hetexp.evaluation.coco import evaluate_segm
from hetexp.evaluation.masks import encode, otsu_thresholds_of, segment, to_uint8
from hetexp.experiments.detr_attribution import DETECTIONS
from hetexp.experiments.methods import MethodSpec
from hetexp.experiments.store import Store

Scores = tuple[dict[str, float | None], dict[str, int]]  # COCO's figures, and what was counted on the way


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image as evaluation needs it, the same for all methods and scales; sizes are (height, width)."""

    image_id: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    detections: list[tuple[int, int | None, float]]  # row of relevance or -1, COCO category, score


def read_images(
    store: Store,
    chunks: Sequence[str],
    categories: dict[int, int | None],
    labels: Mapping[int, str],
    unkept: bool,
) -> tuple[list[StoredImage], list[str]]:
    """All images of the store in order, with their kept (or all) detections; and why others were skipped."""
    images: list[StoredImage] = []
    skipped: list[str] = []
    for chunk in chunks:
        tables = store.read(store.unit(chunk, DETECTIONS)).tables
        skipped += tables["skips"]["reason"].tolist()
        found = tables["detections"]
        if not unkept:
            found = found[found["target"] >= 0]
        of_image: dict[int, list[tuple[int, int | None, float]]] = {}
        for row in found.itertuples():
            category = category_of(int(row.label), categories, labels)
            of_image.setdefault(int(row.image_id), []).append((int(row.target), category, float(row.score)))
        images += [
            StoredImage(
                int(row.image_id),
                (int(row.height), int(row.width)),
                (int(row.input_height), int(row.input_width)),
                of_image.get(int(row.image_id), []),
            )
            for row in tables["images"].itertuples()
        ]
    return images, skipped


class Scorer:
    """Scores one method at one Otsu scale from the store; remembers Otsu's thresholds, the same at all scales."""

    def __init__(
        self, store: Store, chunks: Sequence[str], images: Sequence[StoredImage], coco: COCO, upsample: str
    ) -> None:
        self.store, self.chunks, self.images, self.coco, self.upsample = store, chunks, images, coco, upsample
        self._thresholds: dict[Path, Tensor] = {}  # of all maps of a unit, in their order

    def __call__(self, spec: MethodSpec, scale: float) -> Scores:
        counts = {"no_kept_query": 0, "not_finite": 0, "empty_masks": 0, "masks": 0}
        submitted = self._submit(spec, scale, counts)
        return evaluate_segm(self.coco, submitted, [image.image_id for image in self.images]), counts

    def _submit(self, spec: MethodSpec, scale: float, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Detections in COCO's result form; adds to `counts` on the way."""
        following = iter(self.images)
        for chunk in self.chunks:
            unit = self.store.unit(chunk, spec.name, spec.settings)
            tensors = self.store.read(unit).tensors
            images = list(islice(following, len(tensors)))
            maps = [_finite(tensors[str(image.image_id)]) for image in images]
            if unit not in self._thresholds:
                found = otsu_thresholds_of([to_uint8(clean) for clean, _ in maps])
                self._thresholds[unit] = torch.cat(found) if found else torch.zeros(0)
            thresholds = self._thresholds[unit].split([len(clean) for clean, _ in maps])
            for image, (clean, spoilt), levels in zip(images, maps, thresholds, strict=True):
                masks = segment(clean, scale, image.input_size, image.size, self.upsample, levels)
                counts["not_finite"] += spoilt
                counts["no_kept_query"] += len(masks) == 0
                counts["masks"] += len(masks)
                counts["empty_masks"] += int((~masks.flatten(1).any(1)).sum())
                codes = encode(masks)
                for target, category, score in image.detections:
                    code = codes[target] if target >= 0 else _empty(image.size)
                    yield {
                        "image_id": image.image_id,
                        "category_id": category,
                        "segmentation": code,
                        "score": score,
                    }


def _finite(relevance: Tensor) -> tuple[Tensor, int]:
    """Maps [k, h, w] with those that are not finite set to 0, which gives empty masks; and how many those are."""
    finite = relevance.flatten(1).isfinite().all(1)
    return torch.where(finite[:, None, None], relevance, 0), int((~finite).sum())


@cache
def _empty(size: tuple[int, int]) -> dict[str, Any]:
    return encode(torch.zeros(1, *size, dtype=torch.bool))[0]


def scored(scorer: Scorer, wanted: Sequence[tuple[MethodSpec, float]], workers: int) -> Iterator[Scores]:
    """Scores in the order asked for; with workers > 0 computed by as many processes."""
    if workers == 0:
        yield from (scorer(spec, scale) for spec, scale in wanted)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has used CUDA or threads is not safe
    with ProcessPoolExecutor(min(workers, len(wanted)), context, initializer=_start, initargs=(scorer,)) as pool:
        yield from pool.map(_work, *zip(*wanted, strict=True))


_of_worker: Scorer  # set in worker processes only


def _start(scorer: Scorer) -> None:
    global _of_worker
    _of_worker = scorer
    torch.set_num_threads(1)


def _work(spec: MethodSpec, scale: float) -> Scores:
    return _of_worker(spec, scale)
