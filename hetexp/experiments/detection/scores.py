"""Stage 2 of detection: masks of all kept detections at every threshold and their metrics, from the store alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetexp.data.categories import category_ids
from hetexp.data.registry import DetectionData
from hetexp.errors import DataError
from hetexp.evaluation.bootstrap import Counts, resample_counts
from hetexp.evaluation.masks import finite_maps, to_uint8
from hetexp.evaluation.matches import Matches, estimates_of
from hetexp.evaluation.thresholds.otsu import OTSU
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.controls import Control, ControlInput, get_control
from hetexp.experiments.detection.metrics import METRICS, PASSES, DetectionMetric, SweptMetric, get_metric
from hetexp.experiments.detection.scenes import Scene, StoredImage, SweptImage, read_images
from hetexp.experiments.detection.thresholds import thresholds_of
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.processes import in_processes
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.engine.similarity import ItemMaps, similar_maps
from hetexp.experiments.engine.store import Store
from hetexp.paths import import_from

log = logging.getLogger("hetexp")

Source = MethodSpec | Control  # where maps come from
Job = tuple[Source, Sequence[float], bool]  # scales, and whether to measure what knows no threshold


@dataclass(frozen=True)
class Scores:
    """What the metrics say of one method at one scale.

    Attributes:
        values: (panel, metric) -> value.
        matches: of the panels whose metrics are COCO's.
        ends: panel -> metric -> ends of its interval, of these panels.
        items: values of single detections.
        counts: what was counted on the way.
    """

    values: dict[tuple[str, str], float | None]
    matches: dict[str, Matches]
    ends: dict[str, dict[str, tuple[float, float]]]
    items: list[ItemValues]
    counts: dict[str, int]


def score_all(session: Session) -> list[Result]:
    """Every metric of every method at every threshold."""
    cfg, names, coco = session.cfg, session.adapter.labels, session.data.coco
    if session.strategy.rule.needs_objects and not coco.anns:
        raise DataError(
            f"threshold.strategy={session.strategy.name} reads the masks of the objects, and data={cfg.data.name} has "
            "no annotated object: choose another strategy"
        )
    session.facts["threshold"] = {
        "strategy": session.strategy.name,
        "upsample": cfg.threshold.upsample.value,
        "tie": cfg.threshold.tie.value,
    }
    categories = category_ids(names, coco, cfg.data.categories)
    store, chunks = session.store, session.chunk_names
    images, skipped = read_images(store, chunks, categories, names, cfg.model.include_below_threshold)
    report_skips("images", len(images), skipped)
    asked = list(cfg.metrics or METRICS)
    metrics = [get_metric(name) for name in asked if name not in PASSES]
    controls = [get_control(name) for name in cfg.controls or ()]
    scorer = Scorer(
        store,
        chunks,
        images,
        session.data,
        session.methods[0],
        metrics,
        Upsampling(cfg.threshold.upsample),
        Tie(cfg.threshold.tie),
        cfg.bootstrap,
        cfg.seed,
        session.strategy,
    )
    record = ItemRecord([str(i) for i in sorted(image.image_id for image in images)], cfg.bootstrap, cfg.seed)
    sources: list[Source] = [*session.methods, *controls]
    results: list[Result] = []
    with session.progress as progress:
        shares = shares_of(sources, session.scales, cfg.workers)
        task = progress.add_task("evaluate ", total=sum(map(len, shares)) * len(chunks))
        found = scored(scorer, shares, cfg.workers, partial(progress.advance, task))
        for (source, scales, _), of_job in zip(chain(*shares), found, strict=True):
            for scale, scores in zip(scales, of_job, strict=True):
                results += _results(record, source, scale, scores)
                counts = {"images": len(images), "skipped_images": len(skipped), **scores.counts}
                session.facts.setdefault("counts", {})[f"{source.name}@{scale:g}"] = counts
                if counts["masks"] == 0:
                    least = session.adapter.score_threshold
                    log.warning("%s: no image has a detection with p > model.score_threshold=%g", source.name, least)
    for name in asked:
        if name in PASSES:
            results += import_from(PASSES[name])(session, record)
    results += similar_maps(session, record, read_maps)
    record.write(session.folder)
    return results


def read_maps(session: Session, spec: MethodSpec) -> dict[str, ItemMaps]:
    """Relevance of every kept detection by its name in the item values, for comparisons."""
    return {
        f"{image}:{row}": ItemMaps(image, {"image": one.double().numpy().ravel()})
        for chunk in session.chunk_names
        for image, maps in session.store.read(chunk, spec.unit, spec.settings).tensors.items()
        for row, one in enumerate(maps)
    }


def _results(record: ItemRecord, source: Source, scale: float, scores: Scores) -> list[Result]:
    """Rows of results.csv, with intervals where a metric says what its numbers are made of."""
    results: list[Result] = []
    for panel in dict.fromkeys(panel for panel, _ in scores.values):
        values = {metric: value for (of, metric), value in scores.values.items() if of == panel}
        if panel in scores.matches:
            results += record.matched(source, panel, values, scores.matches[panel], scale, scores.ends[panel])
        else:
            results += [Result(source, panel, m, value, len(record.units), scale) for m, value in values.items()]
    return results + [record.mean(source, found, scale if found.of_masks else None) for found in scores.items]


class Tally:
    """What is collected of one method on the way through the images, at all scales.

    Args:
        metrics: classes of the metrics.
        data: the annotations.
        image_ids: of all images that count.
        scales: multiples of the thresholds.
        relevance_too: whether to measure what knows no threshold.
    """

    def __init__(
        self,
        metrics: Sequence[type[DetectionMetric | SweptMetric]],
        data: DetectionData,
        image_ids: Sequence[int],
        scales: Sequence[float],
        relevance_too: bool,
    ) -> None:
        self.scales = scales
        self._swept: list[Any] = []
        self._single: list[tuple[int, Any]] = []  # number of the scale and metric
        self._in_order: list[list[Any]] = [[] for _ in scales]  # per scale its metrics, or the swept one they come from
        for make in metrics:
            if getattr(make, "of_thresholds", False):
                self._swept.append(make(data.coco, image_ids, len(scales)))  # type: ignore[call-arg]
                for of_scale in self._in_order:
                    of_scale.append(self._swept[-1])
                continue
            once = not getattr(make, "of_masks", True)
            for number in range(len(scales)) if not once else range(int(relevance_too)):
                self._single.append((number, make(data.coco, image_ids)))  # type: ignore[call-arg]
                self._in_order[number].append(self._single[-1][1])
        self._counts = np.zeros((4, len(scales)), dtype=np.int64)

    def add(self, image: SweptImage, not_finite: int) -> None:
        """Take one more image into account."""
        masks = len(image.relevance)
        empty = (image.areas[:, :masks] == 0).sum(axis=1)
        self._counts += np.stack(np.broadcast_arrays(masks == 0, not_finite, empty, masks))
        for metric in self._swept:
            metric.add(image)
        at: dict[int, Any] = {}
        for number, metric in self._single:
            if number not in at:
                at[number] = image.at(number)
            metric.add(at[number])

    def scores(self, counts: Counts | None) -> list[Scores]:
        """The scores at every scale, with intervals from resampled images [B, images] where there are any."""
        swept = {id(metric): metric.at_each() for metric in self._swept}
        names = ("no_kept_query", "not_finite", "empty_masks", "masks")
        out = []
        for number, in_order in enumerate(self._in_order):
            metrics = [swept[id(m)][number] if id(m) in swept else m for m in in_order]
            out.append(
                Scores(
                    {(m.panel, name): value for m in metrics for name, value in m.values().items()},
                    {m.panel: m.matches() for m in metrics if hasattr(m, "matches")},
                    {m.panel: {} for m in metrics if hasattr(m, "matches")},
                    [measured for m in metrics if hasattr(m, "items") for measured in m.items()],
                    dict(zip(names, self._counts[:, number].tolist(), strict=True)),
                )
            )
        if counts is None:
            return out
        for panel in dict.fromkeys(panel for scores in out for panel in scores.matches):
            those = [scores for scores in out if panel in scores.matches]
            known = dict.fromkeys(m for s in those for (p, m), v in s.values.items() if p == panel and v is not None)
            estimates = estimates_of([scores.matches[panel] for scores in those], counts, list(known))
            for scores, found in zip(those, estimates, strict=True):
                shown = {m: e.interval() for m, e in found.items() if scores.values[panel, m] is not None}
                scores.ends[panel].update(shown)
        return out


@dataclass(frozen=True)
class Scorer:
    """Scores methods from the store, chunk by chunk; what an image's objects cost is paid once for all methods.

    Attributes:
        store: where maps are.
        chunks: of the run.
        images: all images of the chunks, in order.
        data: pixels and annotations.
        gridded: a stored method, whose maps have the grid that controls are made on.
        metrics: what is measured.
        upsample: how masks get to the size of the image.
        tie: what a token exactly at the threshold is.
        resamples: behind the intervals; 0 leaves them out.
        seed: of the resamples.
        strategy: what gives maps their thresholds.
    """

    store: Store
    chunks: Sequence[str]
    images: Sequence[StoredImage]
    data: DetectionData
    gridded: MethodSpec
    metrics: Sequence[type[DetectionMetric | SweptMetric]]
    upsample: Upsampling
    tie: Tie
    resamples: int
    seed: int
    strategy: Strategy = OTSU

    def __call__(self, jobs: Sequence[Job], advance: Callable[[], Any] = lambda: None) -> list[list[Scores]]:
        """Per job the scores at its scales; `advance` is called once for every job and chunk."""
        ids = [image.image_id for image in self.images]
        tallies = [Tally(self.metrics, self.data, ids, scales, too) for _, scales, too in jobs]
        following = iter(self.images)
        for chunk in self.chunks:
            scenes: list[Scene] = []
            maps: list[list[Tensor]] = []
            for source, _, _ in jobs:
                spec = self.gridded if isinstance(source, Control) else source
                tensors = self.store.read(chunk, spec.unit, spec.settings).tensors
                scenes = scenes or [Scene(image, self.data.coco) for image in islice(following, len(tensors))]
                maps.append(self._maps(source, scenes, tensors))
            clean = [finite_maps(relevance) for of_job in maps for relevance in of_job]
            small = [to_uint8(finite) for finite, _ in clean]
            levels_of = thresholds_of(self.strategy, scenes * len(jobs), small, self.upsample, self.tie)
            prepared = iter(zip(clean, small, levels_of, strict=True))
            for tally in tallies:
                for scene, ((finite, bad), u8, levels) in zip(scenes, islice(prepared, len(scenes)), strict=True):
                    given = finite, u8, levels, tally.scales, self.upsample, self.tie, self.strategy
                    tally.add(SweptImage(scene, *given), bad)
                advance()
        counts = resample_counts(len(ids), self.resamples, self.seed) if self.resamples and ids else None
        return [tally.scores(counts) for tally in tallies]

    def _maps(self, source: Source, scenes: Sequence[Scene], tensors: dict[str, Tensor]) -> list[Tensor]:
        """Relevance of a chunk's images, from stored maps by image id."""
        maps = [tensors[str(scene.image.image_id)] for scene in scenes]
        if not isinstance(source, Control):
            return maps
        given = zip(scenes, maps, strict=True)
        return [source.maps(ControlInput(scene.image, tuple(m.shape), self.data)) for scene, m in given]


def shares_of(sources: Sequence[Source], scales: Sequence[float], workers: int) -> list[list[Job]]:
    """The jobs of each process, in order: all make as many masks, and few methods, so that scenes serve several."""
    shares: list[list[Job]] = []
    masks = len(sources) * len(scales)
    for share in np.array_split(np.arange(masks), max(1, min(workers, masks))):
        of_source: dict[int, list[int]] = {}
        for number, at in (divmod(one, len(scales)) for one in share.tolist()):
            of_source.setdefault(number, []).append(at)
        shares.append(
            [(sources[n], [float(scales[at]) for at in places], 0 in places) for n, places in of_source.items()]
        )
    return shares


def scored(
    scorer: Scorer, shares: Sequence[Sequence[Job]], workers: int, advance: Callable[[], Any]
) -> Iterator[list[Scores]]:
    """Scores of every job of all shares, in order; with workers > 0 computed by a process for each share."""
    if workers == 0:
        for share in shares:
            yield from scorer(share, advance)
        return
    for share, found in zip(shares, in_processes(_work, shares, len(shares), _start, (scorer,)), strict=True):
        yield from found
        for _ in range(len(share) * len(scorer.chunks)):
            advance()


_of_worker: Scorer  # set in worker processes only


def _start(scorer: Scorer) -> None:
    global _of_worker
    _of_worker = scorer
    torch.set_num_threads(1)


def _work(share: Sequence[Job]) -> list[list[Scores]]:
    return _of_worker(share)
