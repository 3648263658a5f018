"""task=explain: heat maps of the methods beside each other for an image, or a question, of one's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DetrForObjectDetection

from hetexp.attribution.methods import METHODS, Method
from hetexp.config import scales
from hetexp.data.region_features import extract
from hetexp.data.regions import open_regions
from hetexp.data.vqa import read_answers
from hetexp.errors import ConfigError, InputError
from hetexp.experiments.explanations import (
    Explanation,
    Found,
    answer,
    answer_name,
    detect,
    explain_answer,
    explain_detections,
    question_inputs,
    replace_folder,
)
from hetexp.experiments.results import write_run
from hetexp.experiments.samples import FIGURE_METHODS, contrast, open_image
from hetexp.experiments.session import Session
from hetexp.models.detr import DetrAdapter
from hetexp.models.load import load_model
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.trace import Target
from hetexp.paths import asset
from hetexp.reporting.figures.explanation import draw_explanation
from hetexp.reporting.figures.style import save
from hetexp.reporting.samples import Sample
from hetexp.targets import TARGETS, Logit

log = logging.getLogger("hetexp")

MOST = 8  # detections drawn


def without_data(cfg: DictConfig) -> DictConfig:
    """The same configuration; explaining an own image needs no data set, so its root may stay unset."""
    if OmegaConf.is_missing(cfg.data, "root"):
        cfg.data.root = ""
    return cfg


def run(session: Session) -> None:
    """Explain `image=` for `query=` (DETR) or `question=` (LXMERT) and save picture, maps and numbers."""
    cfg = session.cfg
    if not cfg.image:
        raise ConfigError("task=explain needs an image: image=photo.jpg")
    image = open_image(Path(cfg.image))
    explained = _detections(session, image) if cfg.model.name == "detr" else _answers(session, image)
    explained.info["item"] = Path(cfg.image).name
    about = {"model": cfg.model.name, "checkpoint": session.checkpoint, "data": "own image"}
    replace_folder(session.folder / "explanation", {"input": explained}, about)
    sample = Sample(session.folder / "explanation" / "input", json.loads(json.dumps(explained.info)))
    paths = save(draw_explanation(sample), session.folder / "explanation")
    write_run(session.folder, session.facts)
    _show(explained.info)
    log.info("heat maps: %s; numbers: %s", ", ".join(map(str, paths)), sample.folder / "info.json")


def _methods(session: Session) -> dict[str, Method]:
    """The listed methods; by default the paper's five, and one more if `method=` names it."""
    if session.cfg.methods is not None:
        return {s.name: s.method for s in session.methods}
    return {name: METHODS[name] for name in FIGURE_METHODS} | {s.name: s.method for s in session.methods}


def _detections(session: Session, image: Image.Image) -> Explanation:
    cfg, adapter = session.cfg, session.adapter
    assert isinstance(adapter, DetrAdapter)
    everything = detect(adapter, image)
    found = _asked(everything, adapter, cfg.query, cfg.model.keep)
    if len(found) > MOST:
        log.warning("%d detections: the %d most probable are explained (query= names one class)", len(found), MOST)
        found = found[:MOST]
    targets = [_class_target(cfg.target.name, cfg.answers, adapter, f.query, image) for f in found]
    return explain_detections(
        adapter,
        image,
        found,
        targets,
        _methods(session),
        scales(cfg),
        cfg.threshold.upsample,
        cfg.model.odam_feature,
    )


def _asked(everything: Sequence[Found], adapter: DetrAdapter, query: Any, keep: float) -> list[Found]:
    """The detections meant: all kept ones, those of a class, or one object query whatever its probability."""
    kept = [f for f in everything if f.score > keep]
    seen = ", ".join(f"{f.label} {f.score:.2f}" for f in kept[:6])
    if query is None:
        if not kept:
            best = everything[0]
            raise InputError(
                f"nothing was detected with p > {keep:g}; the most probable query is {best.label} with "
                f"{best.score:.2f}: lower model.keep, or take another image"
            )
        return kept
    if isinstance(query, int) or str(query).isdigit():
        one = [f for f in everything if f.query == int(query)]
        if not one:
            raise InputError(f"query={query} does not exist: this model has queries 0 to {len(everything) - 1}")
        return one
    index_of(str(query), list(adapter.labels.values()), "class")
    of_class = [f for f in kept if f.label == query]
    if not of_class:
        nearest = [f" (its most probable query has {f.score:.2f})" for f in everything if f.label == query][:1]
        raise InputError(
            f"no {query} was detected with p > {keep:g}{''.join(nearest)}; detected: {seen or 'nothing'}. Lower "
            "model.keep, or ask for another class"
        )
    return of_class


def index_of(name: str, known: Sequence[str], kind: str) -> int:
    """Position of a class or answer.

    Raises:
        ConfigError: for an unknown one, with those spelled alike.
    """
    if name in known:
        return list(known).index(name)
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"known are, among others: {', '.join(known[:10])}"
    raise ConfigError(f"unknown {kind} {name!r}; {hint}")


def _pair(kind: str, given: Sequence[Any] | None, known: Sequence[str], what: str) -> tuple[int, int] | None:
    """The two classes or answers of `answers=[a,b]`, or None."""
    if given is None:
        return None
    if len(given) != (1 if kind == "logit" else 2):
        wanted = "one answer, e.g. answers=[yes]" if kind == "logit" else "two, e.g. answers=[yes,no]"
        raise ConfigError(f"answers={list(given)} with target={kind} must name {wanted}")
    found = [index_of(as_word(g), known, what) for g in given]
    return found[0], found[-1]


def as_word(value: Any) -> str:
    """An answer as given; YAML reads a bare yes as true: turn it back."""
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _class_target(kind: str, given: Any, adapter: DetrAdapter, query: int, image: Image.Image) -> Target:
    labels = adapter.labels
    names = [labels[i] for i in sorted(labels)]
    pair = _pair(kind, given, names, "class")
    if kind == "logit":
        return Logit(None if pair is None else pair[0], query)
    if pair is None:
        logits, _ = adapter.detect(adapter.prepare([image]))
        a, b = logits[0, query, :-1].topk(2).indices.tolist()
        pair = (a, b)
    return TARGETS[kind](*pair, query)  # type: ignore[return-value]


def _answers(session: Session, image: Image.Image) -> Explanation:
    cfg, adapter = session.cfg, session.adapter
    assert isinstance(adapter, LxmertAdapter)
    if not cfg.question or not cfg.question.strip():
        raise ConfigError('task=explain model=lxmert needs a question: question="is there a zebra?"')
    listed = _data_file(cfg, "answers")
    if adapter.answers is None and listed is not None:
        adapter.answers = read_answers(listed)
    if adapter.answers is None and cfg.answers is not None:
        raise ConfigError(
            "this checkpoint has no answer list, so answers= cannot be looked up: give one, data.root=FOLDER "
            "data.answers=FILE"
        )
    features, boxes = _regions(cfg, adapter, image)
    inputs = question_inputs(adapter, cfg.question, features, boxes)
    order, _ = answer(adapter, inputs)
    names = [answer_name(adapter, i) for i in range(len(order))]
    pair = _pair(cfg.target.name, cfg.answers, names, "answer") or (order[0], contrast(adapter, order))
    target = Logit(pair[0]) if cfg.target.name == "logit" else TARGETS[cfg.target.name](*pair)
    methods = _methods(session)
    if cfg.methods is None and cfg.target.name != "logit":
        methods["ours_full"] = METHODS["ours_full"]  # the signed one: which regions speak for which answer
    explained = explain_answer(
        adapter,
        image,
        cfg.question,
        features,
        boxes,
        {cfg.target.name: target},  # type: ignore[dict-item]
        methods,
        cfg.model.odam_feature,
    )
    explained.info["contrast"] = [names[pair[0]], names[pair[1]]]
    return explained


def _data_file(cfg: Any, key: str) -> Path | None:
    """A file of the configured data, if it is there."""
    if not cfg.data.root or cfg.data[key] is None:
        return None
    path = Path(cfg.data.root, cfg.data[key])
    return path if path.exists() else None


def _regions(cfg: Any, adapter: LxmertAdapter, image: Image.Image) -> tuple[Tensor, Tensor]:
    """Regions of the image: from the data's region file if it knows the image, else by the embedded extractor."""
    stored = _data_file(cfg, "regions")
    if stored is not None:
        store = open_regions(stored)
        name = Path(cfg.image).stem
        if name in store:
            found = store.regions(name)
            return torch.from_numpy(found.features), torch.from_numpy(found.boxes)
    wanted = adapter.model.config.visual_feat_dim
    extracted = extract(image, _detector())
    if extracted.features.shape[1] != wanted:
        raise InputError(
            f"this checkpoint reads region features of {wanted} numbers, which the embedded extractor "
            f"({extracted.features.shape[1]}) does not make: give a region file that holds image "
            f"{Path(cfg.image).stem!r}, data.regions=FILE (.tsv, .h5, .npz)"
        )
    return extracted.features, extracted.boxes


def _detector() -> DetrForObjectDetection:
    """The embedded DETR, on whose backbone the region extractor was trained."""
    adapter = load_model("detr", asset("detr"))
    assert isinstance(adapter, DetrAdapter)
    return adapter.model


def _show(info: dict[str, Any]) -> None:
    """Print the numbers behind the picture."""
    table = Table()
    if info["kind"] == "detr":
        for heading in ("class", "p", "query", "box (x1, y1, x2, y2)"):
            table.add_column(heading, justify="left" if heading == "class" else "right")
        for d in info["detections"]:
            table.add_row(d["label"], f"{d['score']:.3f}", str(d["query"]), ", ".join(f"{v:.0f}" for v in d["box"]))
    else:
        for heading in ("answer", "logit", "p"):
            table.add_column(heading, justify="left" if heading == "answer" else "right")
        for a in info["answers"]:
            table.add_row(a["answer"], f"{a['logit']:.2f}", f"{a['probability']:.3f}")
    Console().print(table)
