"""Explanations of single images: the samples behind figures and gallery, and an image of one's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from hetexp.api import corners, explain
from hetexp.attribution.attribute import build_methods
from hetexp.attribution.method import Method
from hetexp.errors import ConfigError, DataError, InputError
from hetexp.experiments.engine.samples import DEFAULT_ITEMS, chosen_items, shown_methods
from hetexp.experiments.engine.session import Session
from hetexp.explanation import Explanation, Row
from hetexp.models.protocols import Detections, Detector
from hetexp.models.trace import Target
from hetexp.reporting.samples import GALLERY_PART
from hetexp.targets import PAIRS, SINGLE, BoxSide, Logit, RunnerUp, index_of

if TYPE_CHECKING:
    from hetexp.data.coco import SceneItem
    from hetexp.data.registry import DetectionData
    from hetexp.experiments.detection.sampled_objects import DetectedObjects

log = logging.getLogger("hetexp")

CERTAIN = 0.9  # detections shown in Figures 2-4 are at least this probable, as in GAE's publication
MOST_SAMPLED = 4  # detections of one sample image, at most
MOST_EXPLAINED = 8  # detections of an image of one's own, at most
GALLERY = ("raw_attention", "rollout", "grad_cam")  # beside the figures' methods


def detections(adapter: Detector, image: Image.Image) -> list[Row]:
    """Every query's best class, by falling probability."""
    (found,) = adapter.detect(adapter.prepare([image]))
    return by_probability(adapter, found)


def by_probability(adapter: Detector, found: Detections) -> list[Row]:
    """Every query's best class, by falling probability."""
    return [
        Row("", adapter.labels[int(found.labels[q])], float(found.scores[q]), q, corners(found.boxes[q]))
        for q in found.scores.argsort(descending=True).tolist()
    ]


def samples(session: Session) -> dict[str, Explanation]:
    """The chosen images with every certain detection explained, and those of the gallery with all; `limit` of each."""
    from hetexp.experiments.detection.sampled_objects import DetectedObjects  # an image of one's own has no annotations

    data: DetectionData = session.data
    by_id = {item.image_id: item for item in data.items}
    listed = chosen_items(session.cfg.data.name)
    chosen, further = listed.get("detection"), listed.get("gallery", [])
    missing = [i for i in [*(chosen or []), *further] if i not in by_id]
    if missing:
        raise DataError(f"sample images {missing} are not among the data's {len(by_id)}: check data.root")
    methods = shown_methods(session)
    if session.cfg.methods is None:
        methods |= build_methods(GALLERY)
    most = session.cfg.limit or (None if chosen else DEFAULT_ITEMS)
    objects = DetectedObjects(data, session.adapter.labels, session.cfg.data.categories)
    out: dict[str, Explanation] = {}
    for item in [by_id[i] for i in chosen] if chosen else data.items:
        if len(out) == most:
            break
        image, kept = _kept(session, item)
        certain = [f for f in kept if f.score > CERTAIN] or (kept[:MOST_SAMPLED] if chosen is None else kept[:1])
        if certain:
            out[str(item.image_id)] = _sample(session, item, image, methods, certain, objects)
    for item in [by_id[i] for i in further if str(i) not in out][: session.cfg.limit]:
        image, kept = _kept(session, item)
        if kept:  # whatever was detected, wrong or right
            out[str(item.image_id)] = _sample(session, item, image, methods, kept, objects)
            out[str(item.image_id)].details["part"] = GALLERY_PART
    return out


def _kept(session: Session, item: SceneItem) -> tuple[Image.Image, list[Row]]:
    """An image, and its detections above the threshold, by falling probability."""
    adapter: Detector = session.adapter
    image = session.data.load(item)
    kept = [f for f in detections(adapter, image) if f.score > adapter.score_threshold]
    if not kept:
        log.warning("image %s has no detection with p > %g: no sample of it", item.image_id, adapter.score_threshold)
    return image, kept


def _sample(
    session: Session,
    item: SceneItem,
    image: Image.Image,
    methods: Mapping[str, Method],
    found: Sequence[Row],
    objects: DetectedObjects,
) -> Explanation:
    adapter: Detector = session.adapter
    shown = sorted(found[:MOST_SAMPLED], key=_left_to_right)
    explained = explain(adapter, adapter.prepare([image]), methods, [Logit(query=f.query) for f in shown], image=image)
    explained.details |= {"item": item.image_id, "objects": [objects.behind(item, f) for f in shown]}
    return explained


def _left_to_right(found: Row) -> float:
    assert found.box is not None
    return found.box[0] + found.box[2]


def explain_image(session: Session, image: Image.Image) -> Explanation:
    """The detections asked for by `query=`, explained for the target that `target=` and `answers=` make.

    Raises:
        ConfigError: for a class that does not exist.
        InputError: if nothing was detected that is asked for.
    """
    cfg = session.cfg
    adapter: Detector = session.adapter
    inputs = adapter.prepare([image])
    (seen,) = adapter.detect(inputs)
    found = asked_for(by_probability(adapter, seen), adapter, cfg.query)
    if len(found) > MOST_EXPLAINED:
        log.warning(
            "%d detections: the %d most probable are explained (query= names one class)", len(found), MOST_EXPLAINED
        )
        found = found[:MOST_EXPLAINED]
    targets = [_target(session, f.query) for f in found]
    return explain(adapter, inputs, shown_methods(session), targets, image=image)


def asked_for(everything: Sequence[Row], adapter: Detector, query: Any) -> list[Row]:
    """The detections meant: all kept ones, those of a class, or one object query whatever its probability.

    Raises:
        ConfigError: for a class that does not exist.
        InputError: if nothing was detected that is meant.
    """
    threshold = adapter.score_threshold
    kept = [f for f in everything if f.score > threshold]
    seen = ", ".join(f"{f.label} {f.score:.2f}" for f in kept[:6])
    if query is None:
        if not kept:
            best = everything[0]
            raise InputError(
                f"nothing was detected with p > {threshold:g}; the most probable query is {best.label} with "
                f"{best.score:.2f}: lower model.score_threshold, or take another image"
            )
        return kept
    if isinstance(query, int) or str(query).isdigit():
        one = [f for f in everything if f.query == int(query)]
        if not one:
            raise InputError(f"query={query} does not exist: this model has queries 0 to {len(everything) - 1}")
        return one
    index_of(str(query), adapter.labels.values())
    of_class = [f for f in kept if f.label == query]
    if not of_class:
        nearest = [f" (its most probable query has {f.score:.2f})" for f in everything if f.label == query][:1]
        raise InputError(
            f"no {query} was detected with p > {threshold:g}{''.join(nearest)}; detected: {seen or 'nothing'}. Lower "
            "model.score_threshold, or ask for another class"
        )
    return of_class


def _target(session: Session, query: int | None) -> Target:
    cfg, labels = session.cfg, session.adapter.labels
    kind, given = cfg.target.name, cfg.answers
    if kind == "box":
        return BoxSide(session.target.side, query)
    if given is None:
        return SINGLE[kind](query=query) if kind in SINGLE else RunnerUp(kind, query)
    if kind == "second":
        raise ConfigError("target=second explains the second class that the model found: leave answers out")
    if len(given) != (1 if kind in SINGLE else 2):
        wanted = "one class, e.g. answers=[zebra]" if kind in SINGLE else "two, e.g. answers=[zebra,horse]"
        raise ConfigError(f"answers={list(given)} with target={kind} must name {wanted}")
    keys = list(labels)
    found = [keys[index_of(str(name), labels.values())] for name in given]
    return SINGLE[kind](found[0], query) if kind in SINGLE else PAIRS[kind](*found, query)
