"""Explanations of single questions: the samples behind figures and gallery, and a question of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hetexp.api import explain
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.method import Method
from hetexp.attribution.ours import Ours
from hetexp.config import plain
from hetexp.data.pictures import open_image
from hetexp.data.regions import RegionStore, open_regions
from hetexp.data.regions.features import extract
from hetexp.data.vqa import Question, read_answers, read_questions
from hetexp.errors import ConfigError, DataError, InputError
from hetexp.experiments.engine.samples import DEFAULT_ITEMS, chosen_items, shown_methods
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.localise import annotations_of
from hetexp.experiments.vqa.regions import image_file, regions_for
from hetexp.experiments.vqa.semantics import objects_of
from hetexp.explanation import Explanation
from hetexp.models.protocols import Answerer, ReadsPictures
from hetexp.models.registry import load_model
from hetexp.models.trace import Target
from hetexp.paths import asset
from hetexp.targets import PAIRS, SINGLE, Difference, Logit, index_of

SIGNED = "ours_full"  # which regions and words speak for which answer
TOP_ANSWERS = 5
DEFAULT_QUESTIONS = 4  # of each figure


def samples(session: Session) -> dict[str, Explanation]:
    """The chosen questions, the first `limit` of each figure, explained for the answer and its difference to another.

    Without chosen ones the first questions of the data are taken.
    """
    cfg = session.cfg
    adapter: Answerer = session.adapter
    root = Path(cfg.data.root)
    if adapter.answers is None:
        adapter.answers = read_answers(root / cfg.data.answers)
    regions = regions_for(session)
    asked = read_questions(root / cfg.data.questions)
    accepted = {(q.img_id, q.sent.lower()): q.label for q in asked}
    chosen = chosen_items(cfg.data.name) or _first_questions(asked, cfg.limit or DEFAULT_QUESTIONS)
    scenes = annotations_of(plain(cfg.data))
    methods = shown_methods(session) | {SIGNED: Ours("full"), "homologous": Homologous("abs")}
    out = {}
    for part in ("questions", "logic"):
        for number, entry in enumerate(chosen.get(part, [])[: cfg.limit]):
            img_id, question = str(entry["image"]), entry["question"]
            image = find_image(root / cfg.data.images, img_id)
            explained = _sample(adapter, regions, image, img_id, question, methods)
            explained.details |= {"item": img_id, "part": part, "accepted": accepted.get((img_id, question.lower()))}
            explained.details["objects"] = None if scenes is None else objects_of(scenes, img_id, explained.words or ())
            out[f"{part}-{number}-{img_id}"] = explained
    return out


def _first_questions(asked: Sequence[Question], n: int) -> dict[str, Any]:
    items = [{"image": q.img_id, "question": q.sent} for q in asked[: max(n, DEFAULT_ITEMS)]]
    polar = [i for i in items if i["question"].lower().startswith(("is ", "are "))]
    return {"questions": items[:n], "logic": (polar or items)[:n]}


def _sample(
    adapter: Answerer,
    regions: RegionStore,
    image: Image.Image,
    img_id: str,
    question: str,
    methods: Mapping[str, Method],
) -> Explanation:
    found = regions.regions(img_id)
    parts = torch.from_numpy(found.features), torch.from_numpy(found.boxes)
    order = answer_order(adapter, question, *parts)
    best, other = order[0], contrast(adapter, order)
    targets: dict[str, Target] = {"logit": Logit(best), "difference": Difference(best, other)}
    explained = explain_answer(adapter, image, question, *parts, targets, methods)
    explained.details["contrast"] = [answer_name(adapter, best), answer_name(adapter, other)]
    return explained


def explain_question(session: Session, image: Image.Image) -> Explanation:
    """The answer to `question=`, explained for the target that `target=` and `answers=` make.

    Raises:
        ConfigError: without a question, or for an answer that does not exist.
        InputError: for an image without usable regions.
    """
    cfg = session.cfg
    adapter: Answerer = session.adapter
    kind = cfg.target.name
    if not cfg.question or not cfg.question.strip():
        raise ConfigError('task=explain needs a question for this model: question="is there a zebra?"')
    if kind == "box":
        raise ConfigError("target=box is for detectors: this model answers questions, choose another target")
    name_answers(cfg, adapter)
    if adapter.answers is None and cfg.answers is not None:
        raise ConfigError(
            "this checkpoint has no answer list, so answers= cannot be looked up: give one, data.root=FOLDER "
            "data.answers=FILE"
        )
    features, boxes = regions_of(cfg, adapter, image, Path(cfg.image).stem)
    order = answer_order(adapter, cfg.question, features, boxes)
    pair = _pair(adapter, kind, cfg.answers) or (order[0], contrast(adapter, order))
    target: Target = _single(kind, pair[0], cfg.answers) if kind in SINGLE else PAIRS[kind](*pair)
    methods = shown_methods(session)
    if cfg.methods is None and kind != "logit":
        methods[SIGNED] = Ours("full")
    explained = explain_answer(adapter, image, cfg.question, features, boxes, {kind: target}, methods)
    explained.details["contrast"] = [answer_name(adapter, i) for i in pair]
    return explained


def name_answers(cfg: Any, adapter: Answerer) -> None:
    """Give a model whose checkpoint has no answer list that of the configured data, if there is one."""
    listed = _data_file(cfg, "answers")
    if adapter.answers is None and listed is not None:
        adapter.answers = read_answers(listed)


def _single(kind: str, answer: int, given: Sequence[Any] | None) -> Target:
    if kind != "second":
        return SINGLE[kind](answer)
    if given is not None:
        raise ConfigError("target=second explains the second answer that the model found: leave answers out")
    return SINGLE[kind]()


def _pair(adapter: Answerer, kind: str, given: Sequence[Any] | None) -> tuple[int, int] | None:
    """The two answers of `answers=[a,b]`, or None."""
    if given is None:
        return None
    if len(given) != (1 if kind in SINGLE else 2):
        wanted = "one answer, e.g. answers=[yes]" if kind in SINGLE else "two, e.g. answers=[yes,no]"
        raise ConfigError(f"answers={list(given)} with target={kind} must name {wanted}")
    found = [index_of(as_word(g), adapter.answers or [], "answer") for g in given]
    return found[0], found[-1]


def as_word(value: Any) -> str:
    """An answer as given; YAML reads a bare yes as true: turn it back."""
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def answer_order(adapter: Answerer, question: str, features: Tensor, boxes: Tensor) -> list[int]:
    """All answers from best to worst."""
    return _logits(adapter, question, features, boxes).argsort(descending=True).tolist()


def _logits(adapter: Answerer, question: str, features: Tensor, boxes: Tensor) -> Tensor:
    return adapter.predict(adapter.collate([adapter.encode(question, features, boxes)]))[0].double().cpu()


def answer_name(adapter: Answerer, index: int) -> str:
    """The answer's text, or its number where the checkpoint has no answer list."""
    return adapter.labels.get(index, str(index))


def contrast(adapter: Answerer, order: Sequence[int]) -> int:
    """The answer to hold against the best one: yes against no where both exist, else the second best."""
    names = adapter.answers or []
    best = answer_name(adapter, order[0])
    opposite = {"yes": "no", "no": "yes"}.get(best)
    return names.index(opposite) if opposite in names else order[1]


def explain_answer(
    adapter: Answerer,
    image: Image.Image,
    question: str,
    features: Tensor,
    boxes: Tensor,
    targets: Mapping[str, Target],
    methods: Mapping[str, Method],
) -> Explanation:
    """Relevance of words and regions for one question and one or several targets by name.

    Args:
        features: region features [R, D].
        boxes: [R, 4] in units of the image's sides.
    """
    encoded = adapter.encode(question, features, boxes)
    inputs = adapter.collate([encoded])
    logits = _logits(adapter, question, features, boxes)
    explained = explain(adapter, inputs, methods, list(targets.values()), image=image)
    explained.rows = [replace(row, name=name) for row, name in zip(explained.rows, targets, strict=True)]
    explained.question = question
    explained.words = adapter.question_tokens(encoded)
    explained.regions = boxes
    explained.answers = best_answers(adapter, logits)
    return explained


def best_answers(adapter: Answerer, logits: Tensor) -> list[dict[str, Any]]:
    """The most probable answers, best first, of the logits [answers] of one question."""
    probabilities = logits.softmax(-1)
    return [
        {"answer": answer_name(adapter, i), "logit": float(logits[i]), "probability": float(probabilities[i])}
        for i in logits.argsort(descending=True).tolist()[:TOP_ANSWERS]
    ]


def find_image(folder: Path, img_id: str) -> Image.Image:
    """The image of that id, whatever its suffix.

    Raises:
        DataError: if there is none or it cannot be read.
    """
    path = image_file(folder, img_id)
    if path is not None:
        return open_image(path)
    raise DataError(f"image {img_id} is not in {folder} (.jpg, .png): set data.images to the folder of the images")


def _data_file(cfg: Any, key: str) -> Path | None:
    """A file of the configured data, if it is there."""
    if not cfg.data.root or cfg.data[key] is None:
        return None
    path = Path(cfg.data.root, cfg.data[key])
    return path if path.exists() else None


@lru_cache(1)
def _extractor() -> Any:
    """The embedded detector, on whose backbone the region extractor was trained."""
    return load_model(asset("detr")).model


def regions_of(cfg: Any, adapter: Answerer, image: Image.Image, name: str) -> tuple[Tensor, Tensor]:
    """Features [R, D] and boxes [R, 4] of an image's regions: the model's own patches; else from the data's region file
    if it knows an image of that name; else by the embedded extractor.

    Raises:
        InputError: where the extractor makes other features than the model reads.
    """
    if isinstance(adapter, ReadsPictures):
        return adapter.regions_of(image)
    stored = _data_file(cfg, "regions")
    if stored is not None:
        store = open_regions(stored)
        if name in store:
            found = store.regions(name)
            return torch.from_numpy(found.features), torch.from_numpy(found.boxes)
    extracted = extract(image, _extractor())
    if extracted.features.shape[1] != adapter.feature_width:
        raise InputError(
            f"this checkpoint reads region features of {adapter.feature_width} numbers, which the embedded extractor "
            f"({extracted.features.shape[1]}) does not make: give a region file that holds image "
            f"{name!r}, data.regions=FILE (.tsv, .h5, .npz)"
        )
    return extracted.features, extracted.boxes
