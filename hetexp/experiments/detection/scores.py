"""Stage 2 of detection: masks of all kept detections at every threshold and their metrics, from the store alone."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hetexp.data.categories import category_ids, category_of
from hetexp.data.registry import DetectionData
from hetexp.evaluation.masks import finite_maps, otsu_thresholds_of, segment, to_uint8
from hetexp.evaluation.matches import Matches
from hetexp.evaluation.upsampling import Upsampling
from hetexp.experiments.detection.attribution import DETECTIONS
from hetexp.experiments.detection.controls import Control, ControlInput, get_control
from hetexp.experiments.detection.metrics import METRICS, DetectionMetric, ScoredImage, get_metric
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.engine.store import Store

log = logging.getLogger("hetexp")

Source = MethodSpec | Control  # where maps come from


@dataclass(frozen=True)
class Scores:
    """What the metrics say of one method at one scale.

    Attributes:
        values: (panel, metric) -> value.
        matches: of the panels whose metrics are COCO's.
        items: values of single detections.
        counts: what was counted on the way.
    """

    values: dict[tuple[str, str], float | None]
    matches: dict[str, Matches]
    items: list[ItemValues]
    counts: dict[str, int]


def score_all(session: Session) -> list[Result]:
    """Every metric of every method at every threshold."""
    cfg, names, coco = session.cfg, session.adapter.labels, session.data.coco
    categories = category_ids(names, coco, cfg.data.categories)
    store, chunks = session.store, session.chunk_names
    images, skipped = read_images(store, chunks, categories, names, cfg.model.include_below_threshold)
    report_skips("images", len(images), skipped)
    metrics = [get_metric(name) for name in cfg.metrics or METRICS]
    controls = [get_control(name) for name in cfg.controls or ()]
    scorer = Scorer(store, chunks, images, session.data, session.methods[0], cfg.threshold.upsample, metrics)
    record = ItemRecord([str(i) for i in sorted(image.image_id for image in images)], cfg.bootstrap, cfg.seed)
    sources: list[Source] = [*session.methods, *controls]
    wanted = [(source, scale) for source in sources for scale in session.scales]
    results: list[Result] = []
    with session.progress as progress:
        task = progress.add_task("evaluate ", total=len(wanted))
        for (source, scale), scores in zip(wanted, scored(scorer, wanted, cfg.workers), strict=True):
            results += _results(record, source, scale, scores)
            counts = {"images": len(images), "skipped_images": len(skipped), **scores.counts}
            session.facts.setdefault("counts", {})[f"{source.name}@{scale:g}"] = counts
            if counts["masks"] == 0:
                threshold = session.adapter.score_threshold
                log.warning("%s: no image has a detection with p > model.score_threshold=%g", source.name, threshold)
            progress.advance(task)
    record.write(session.folder)
    return results


def _results(record: ItemRecord, source: Source, scale: float, scores: Scores) -> list[Result]:
    """Rows of results.csv, with intervals where a metric says what its numbers are made of."""
    results: list[Result] = []
    for panel in dict.fromkeys(panel for panel, _ in scores.values):
        values = {metric: value for (of, metric), value in scores.values.items() if of == panel}
        if panel in scores.matches:
            results += record.matched(source, panel, values, scores.matches[panel], scale)
        else:
            results += [Result(source, panel, m, value, len(record.units), scale) for m, value in values.items()]
    return results + [record.mean(source, measured) for measured in scores.items]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image as evaluation needs it, the same for all methods and scales; sizes are (height, width)."""

    image_id: int
    size: tuple[int, int]
    input_size: tuple[int, int]
    detections: list[tuple[int, int | None, float]]  # row of relevance or -1, COCO category, score
    boxes: list[tuple[float, float, float, float]]  # of the detections: centre, width and height, relative


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
        boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        for row in found.itertuples():
            category = category_of(int(row.label), categories, labels)
            of_image.setdefault(int(row.image_id), []).append((int(row.target), category, float(row.score)))
            boxes.setdefault(int(row.image_id), []).append((row.x, row.y, row.w, row.h))
        images += [
            StoredImage(
                int(row.image_id),
                (int(row.height), int(row.width)),
                (int(row.input_height), int(row.input_width)),
                of_image.get(int(row.image_id), []),
                boxes.get(int(row.image_id), []),
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
        data: DetectionData,
        gridded: MethodSpec,
        upsample: Upsampling,
        metrics: Sequence[type[DetectionMetric]],
    ) -> None:
        self.store, self.chunks, self.images, self.data = store, chunks, images, data
        self.gridded = gridded  # a stored method, whose maps have the grid that controls are made on
        self.upsample, self.metrics = upsample, metrics
        self._thresholds: dict[tuple[str, str], Tensor] = {}  # of all maps of a method's chunk, in their order

    def __call__(self, source: Source, scale: float, relevance_too: bool = True) -> Scores:
        """Score a method or control; `relevance_too`: also by the metrics that know no threshold."""
        counts = {"no_kept_query": 0, "not_finite": 0, "empty_masks": 0, "masks": 0}
        ids = [image.image_id for image in self.images]
        wanted = [make for make in self.metrics if relevance_too or getattr(make, "of_masks", True)]
        metrics: list[Any] = [make(self.data.coco, ids) for make in wanted]  # type: ignore[call-arg]
        for image in self._masked(source, scale, counts):
            for metric in metrics:
                metric.add(image)
        return Scores(
            {(m.panel, name): value for m in metrics for name, value in m.values().items()},
            {m.panel: m.matches() for m in metrics if hasattr(m, "matches")},
            [measured for m in metrics if hasattr(m, "items") for measured in m.items()],
            counts,
        )

    def _maps(self, source: Source, chunk: str) -> dict[str, Tensor]:
        """Relevance of a chunk's images by their ids."""
        spec = self.gridded if isinstance(source, Control) else source
        tensors = self.store.read(chunk, spec.unit, spec.settings).tensors
        if not isinstance(source, Control):
            return tensors
        return {
            image: source.maps(ControlInput(self._by_id[image], tuple(maps.shape), self.data))
            for image, maps in tensors.items()
        }

    @cached_property
    def _by_id(self) -> dict[str, StoredImage]:
        return {str(image.image_id): image for image in self.images}

    def _masked(self, source: Source, scale: float, counts: dict[str, int]) -> Iterator[ScoredImage]:
        """Every image with its maps and masks; adds to `counts` on the way."""
        following = iter(self.images)
        for chunk in self.chunks:
            tensors = self._maps(source, chunk)
            images = list(islice(following, len(tensors)))
            maps = [finite_maps(tensors[str(image.image_id)]) for image in images]
            key = (chunk, source.name)
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
                yield ScoredImage(image.image_id, image.size, clean, masks, image.detections, image.boxes)


def scored(scorer: Scorer, wanted: Sequence[tuple[Source, float]], workers: int) -> Iterator[Scores]:
    """Scores in the order asked for; with workers > 0 computed by as many processes."""
    seen: set[str] = set()
    jobs = []
    for source, scale in wanted:
        jobs.append((source, scale, source.name not in seen))  # what knows no threshold is measured once
        seen.add(source.name)
    if workers == 0:
        yield from (scorer(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has used CUDA or threads is not safe
    with ProcessPoolExecutor(min(workers, len(wanted)), context, initializer=_start, initargs=(scorer,)) as pool:
        yield from pool.map(_work, *zip(*jobs, strict=True))


_of_worker: Scorer  # set in worker processes only


def _start(scorer: Scorer) -> None:
    global _of_worker
    _of_worker = scorer
    torch.set_num_threads(1)


def _work(source: Source, scale: float, relevance_too: bool) -> Scores:
    return _of_worker(source, scale, relevance_too)
