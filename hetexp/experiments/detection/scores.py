"""Stage 2 of detection: masks of all kept detections at every threshold and their metrics, from the store alone."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from pycocotools.coco import COCO
from torch import Tensor

from hetexp.data.coco import category_ids, category_of
from hetexp.evaluation.masks import finite_maps, otsu_thresholds_of, segment, to_uint8
from hetexp.evaluation.upsampling import Upsampling
from hetexp.experiments.detection.attribution import DETECTIONS
from hetexp.experiments.detection.metrics import METRICS, DetectionMetric, ScoredImage, get_metric
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.engine.store import Store

log = logging.getLogger("hetexp")

Scores = tuple[dict[tuple[str, str], float | None], dict[str, int]]  # (panel, metric) -> value; what was counted


def score_all(session: Session) -> list[Result]:
    """Every metric of every method at every threshold."""
    cfg, names, coco = session.cfg, session.adapter.labels, session.data.coco
    categories = category_ids(names, coco)
    store, chunks = session.store, session.chunk_names
    images, skipped = read_images(store, chunks, categories, names, cfg.model.include_below_threshold)
    report_skips("images", len(images), skipped)
    metrics = [get_metric(name) for name in cfg.metrics or METRICS]
    scorer = Scorer(store, chunks, images, coco, cfg.threshold.upsample, metrics)
    wanted = [(spec, scale) for spec in session.methods for scale in session.scales]
    results: list[Result] = []
    with session.progress as progress:
        task = progress.add_task("evaluate ", total=len(wanted))
        for (spec, scale), (values, counts) in zip(wanted, scored(scorer, wanted, cfg.workers), strict=True):
            for (panel, metric), value in values.items():
                results.append(Result(spec, panel, metric, value, len(images), scale))
            counts = {"images": len(images), "skipped_images": len(skipped), **counts}
            session.facts.setdefault("counts", {})[f"{spec.name}@{scale:g}"] = counts
            if counts["masks"] == 0:
                threshold = session.adapter.score_threshold
                log.warning("%s: no image has a detection with p > model.score_threshold=%g", spec.name, threshold)
            progress.advance(task)
    return results


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
    include_below_threshold: bool,
) -> tuple[list[StoredImage], list[str]]:
    """All images of the store in order, with their kept (or all) detections; and why others were skipped."""
    images: list[StoredImage] = []
    skipped: list[str] = []
    for chunk in chunks:
        tables = store.read(chunk, DETECTIONS).tables
        skipped += tables["skips"]["reason"].tolist()
        found = tables["detections"]
        if not include_below_threshold:
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
        self,
        store: Store,
        chunks: Sequence[str],
        images: Sequence[StoredImage],
        coco: COCO,
        upsample: Upsampling,
        metrics: Sequence[type[DetectionMetric]],
    ) -> None:
        self.store, self.chunks, self.images, self.coco = store, chunks, images, coco
        self.upsample, self.metrics = upsample, metrics
        self._thresholds: dict[tuple[str, str], Tensor] = {}  # of all maps of a method's chunk, in their order

    def __call__(self, spec: MethodSpec, scale: float) -> Scores:
        counts = {"no_kept_query": 0, "not_finite": 0, "empty_masks": 0, "masks": 0}
        ids = [image.image_id for image in self.images]
        metrics = [make(self.coco, ids) for make in self.metrics]  # type: ignore[call-arg]
        for image in self._masked(spec, scale, counts):
            for metric in metrics:
                metric.add(image)
        return {(m.panel, name): value for m in metrics for name, value in m.values().items()}, counts

    def _masked(self, spec: MethodSpec, scale: float, counts: dict[str, int]) -> Iterator[ScoredImage]:
        """Every image with its maps and masks; adds to `counts` on the way."""
        following = iter(self.images)
        for chunk in self.chunks:
            tensors = self.store.read(chunk, spec.unit, spec.settings).tensors
            images = list(islice(following, len(tensors)))
            maps = [finite_maps(tensors[str(image.image_id)]) for image in images]
            key = (chunk, spec.name)
            if key not in self._thresholds:
                found = otsu_thresholds_of([to_uint8(clean) for clean, _ in maps])
                self._thresholds[key] = torch.cat(found) if found else torch.zeros(0)
            thresholds = self._thresholds[key].split([len(clean) for clean, _ in maps])
            for image, (clean, n_nonfinite), levels in zip(images, maps, thresholds, strict=True):
                masks = segment(clean, scale, image.input_size, image.size, self.upsample, levels)
                counts["not_finite"] += n_nonfinite
                counts["no_kept_query"] += len(masks) == 0
                counts["masks"] += len(masks)
                counts["empty_masks"] += int((~masks.flatten(1).any(1)).sum())
                yield ScoredImage(image.image_id, image.size, clean, masks, image.detections)


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
