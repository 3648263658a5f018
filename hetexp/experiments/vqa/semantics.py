"""What words and regions mean, and the logic of questions (the paper's Figures 7 and 8), over all questions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from hetexp.data.coco import CocoScenes
from hetexp.data.synthetic.question_templates import plural
from hetexp.evaluation.localisation import auroc, coverage, word_auroc
from hetexp.experiments.vqa.localise import annotations_of, finite
from hetexp.experiments.vqa.metrics import Measured, Outcome
from hetexp.reporting.run_lengths import plain_run_lengths

Floats = NDArray[np.float64]

LOGIC = ("exist", "and", "or", "negation")  # question types that ask whether something is there


def semantics(outcome: Outcome) -> Iterator[Measured]:
    """Whether words that name a class stand above the others, and regions of any object above the background (Fig. 7).

    Questions without such words or objects, or with nothing else, are left out, for all methods alike.
    """
    scenes = annotations_of(outcome.data)
    if scenes is None:
        return
    classes = _by_name(scenes)
    found: dict[str, list[tuple[int, float]]] = {"noun_auroc": [], "object_auroc": []}
    for i, question in enumerate(outcome.questions.itertuples()):
        nouns = [t for t, token in enumerate(json.loads(question.tokens)) if token in classes]
        of_words = word_auroc(finite(outcome.text[i]), nouns)
        if of_words is not None:
            found["noun_auroc"].append((i, of_words))
        covered = _covered(scenes, question.img_id, None, outcome.boxes[i].double().numpy())
        if covered.any():
            found["object_auroc"].append((i, auroc(finite(outcome.image[i]), covered)))
    for name, values in found.items():
        if values:
            rows, numbers = zip(*values, strict=True)
            yield Measured("semantics", name, np.array(numbers), np.array(rows))


def logic(outcome: Outcome) -> Iterator[Measured]:
    """Whether signed relevance of the objects that a question names speaks for the answer as logic has it (Fig. 8).

    An object that is named speaks for "yes" where its presence is asked for, and for "no" where its absence is. So its
    relevance for the answer given is expected to be positive if the two agree, and else negative. Over all questions of
    logic that are answered with yes or no and name an object of the image:

    - sign_accuracy: share of questions where the relevance of the named objects' regions, summed, has that sign; a sum
      of 0 counts half
    - named_auroc: whether regions of named objects stand above those of other objects, by relevance times that sign;
      over questions whose image has both
    """
    scenes = annotations_of(outcome.data)
    if scenes is None:
        return
    classes, signs, named = _by_name(scenes), [], []
    for i, question in enumerate(outcome.questions.itertuples()):
        answer = outcome.answer_names[int(question.predicted)]
        if question.question_type not in LOGIC or answer not in ("yes", "no"):
            continue
        asked = {classes[token] for token in json.loads(question.tokens) if token in classes}
        boxes = outcome.boxes[i].double().numpy()
        on = _covered(scenes, question.img_id, asked, boxes)
        if not asked or not on.any():
            continue
        expected = 1.0 if (answer == "yes") == (question.question_type != "negation") else -1.0
        relevance = expected * finite(outcome.image[i])
        kind = question.question_type
        signs.append((i, kind, (np.sign(relevance @ on) + 1) / 2))
        beside = _covered(scenes, question.img_id, set(classes.values()) - asked, boxes)
        some = on + beside > 0
        if beside.any():
            named.append((i, kind, auroc(relevance[some], (on / np.maximum(on + beside, 1e-12))[some])))
    for name, values in (("sign_accuracy", signs), ("named_auroc", named)):
        for kind in (None, *LOGIC):
            rows = [(i, value) for i, of, value in values if kind in (None, of)]
            if rows:
                panel = "logic" if kind is None else f"logic/{kind}"
                yield Measured(panel, name, np.array([v for _, v in rows]), np.array([i for i, _ in rows]))


def objects_of(scenes: CocoScenes, image: str, tokens: Collection[str]) -> list[dict[str, Any]] | None:
    """All objects of an image, and whether a question's tokens name their class, for `StoredExplanation`.

    Returns:
        None for an image that is not among the annotated ones.
    """
    number = _image_ids(scenes).get(image)
    if number is None:
        return None
    asked = {category for word, category in _by_name(scenes).items() if word in tokens}
    return [
        {
            "name": scenes.categories[a["category_id"]],
            "mask": plain_run_lengths(scenes.coco.annToRLE(a)),
            "named": a["category_id"] in asked,
        }
        for a in scenes.coco.imgToAnns.get(number, [])
    ]


@lru_cache(maxsize=1)
def _by_name(scenes: CocoScenes) -> dict[str, int]:
    """Words that name a class, in either number -> category id; classes of several words are left out."""
    names = {category["name"]: category["id"] for category in scenes.coco.cats.values() if " " not in category["name"]}
    return {form: number for name, number in names.items() for form in (name, plural(name))}


@lru_cache(maxsize=1)
def _image_ids(scenes: CocoScenes) -> dict[str, int]:
    return {scenes.path(item).stem: item.image_id for item in scenes.items}


def _covered(scenes: CocoScenes, image: str, categories: Collection[int] | None, boxes: Floats) -> Floats:
    """Share of each box that the image's objects of some categories cover, None standing for all [R]."""
    found = [
        a["segmentation"]
        for a in scenes.coco.imgToAnns.get(_image_ids(scenes)[image], [])
        if categories is None or a["category_id"] in categories
    ]
    if not found:
        return np.zeros(len(boxes))
    return coverage(boxes, np.asarray(rle.decode(rle.merge(found)), dtype=bool))
