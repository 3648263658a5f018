"""Scenes in words: known answers, and deciding words against changed scenes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from hetexp.data.sentences import read_sentences
from hetexp.data.synthetic.candidates import AnnotatedObject, AnnotatedScene, scenes_from_coco
from hetexp.data.synthetic.descriptions import (
    ASKED,
    describe_question,
    height_question,
    random_scene,
    vocabulary,
)
from hetexp.data.synthetic.questions import generate
from hetexp.paths import asset


def thing(number: int, name: str, x: float, y: float, color: str | None = None) -> AnnotatedObject:
    return AnnotatedObject(number, name, "animal", (x - 0.1, y - 0.1, x + 0.1, y + 0.1), 0.04, color)


SCENE = AnnotatedScene("1", 320, 240, (thing(1, "dog", 0.8, 0.25), thing(2, "cat", 0.2, 0.75, "red")))


def item(kind: str, sent: str, answer: str, objects: list[int], words: list[list[int]]) -> dict[str, object]:
    return {"question_type": kind, "sent": sent, "label": {answer: 1.0}, "objects": objects, "words": words}


def decided(question: dict[str, object]) -> tuple[str, str, list[tuple[str, str, list[str]]]]:
    found = describe_question(question, SCENE)
    read, written = found.source.split(), found.target.split()
    return found.source, found.target, [(written[w.at], w.role, [read[i] for i in w.deciding]) for w in found.decided]


def test_known_questions() -> None:
    said = "red cat at height 2 , dog at height 7 . "
    assert decided(item("exist", "is there a dog?", "yes", [1], [[11, 14]])) == (
        said + "is there a dog ?",
        "yes at height 7",
        [("yes", "answer", ["dog", "dog"]), ("7", "evidence", ["dog", "7", "dog"])],
    )
    assert decided(item("exist", "is there a cow?", "no", [], [[11, 14]])) == (said + "is there a cow ?", "no", [])
    assert decided(item("color", "what color is the cat?", "red", [2], [[5, 10], [18, 21]])) == (
        said + "what color is the cat ?",
        "the cat is red",
        [("cat", "copied", ["cat"]), ("red", "answer", ["red", "cat", "color", "cat"])],
    )
    assert decided(item("count", "how many dogs are there?", "1", [1], [[0, 3], [4, 8], [9, 13]]))[1:] == (
        "1 dogs",
        [("1", "answer", ["dog", "how", "many", "dogs"]), ("dogs", "copied", ["dogs"])],
    )


def test_a_height_changes_the_words_that_it_decides_and_no_others() -> None:
    question = height_question(SCENE, random.Random(0))
    assert question is not None
    (number,) = question["objects"]
    before = describe_question(question, SCENE)
    moved = [replace(t, box=(t.box[0], 0.4, t.box[2], 0.6)) if t.id == number else t for t in SCENE.objects]
    changed = replace(SCENE, objects=tuple(moved))
    again = {**question, "label": {"5": 1.0}}
    after = describe_question(again, changed)
    differing = [i for i, (a, b) in enumerate(zip(before.source.split(), after.source.split(), strict=True)) if a != b]
    assert len(differing) == 1
    assert set(differing) < set(before.decided[0].deciding)
    assert after.target == "at height 5" != before.target


def test_every_word_is_in_the_vocabulary() -> None:
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text())
    known = set(vocabulary(coco))
    rng = random.Random(0)
    scenes = {str(i): random_scene(rng, str(i)) for i in range(60)}
    names = [c["name"] for c in coco["categories"]]
    shares = dict.fromkeys(ASKED, 1 / len(ASKED))
    asked = generate(list(scenes.values()), names, 200, 0, tries=4, n_candidates=4, shares=shares)
    assert {q["question_type"] for q in asked} == set(ASKED)
    for question in asked:
        found = describe_question(question, scenes[question["img_id"]])
        assert {*found.source.split(), *found.target.split()} <= known
        assert all(0 <= i < len(found.source.split()) for word in found.decided for i in word.deciding)


def test_the_embedded_sentences_follow_from_the_scenes() -> None:
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text())
    scenes = {scene.img_id: scene for scene in scenes_from_coco(coco)}
    questions = json.loads((Path(asset("vqa")) / "questions.json").read_text())
    stored = {s.id: s for s in read_sentences(Path(asset("bart")) / "sentences.json")}
    again = [q for q in questions if q["question_type"] in ASKED]
    assert len(again) == 1645
    for question in again[::7]:
        found = describe_question(question, scenes[question["img_id"]]).item(
            str(question["question_id"]), question["img_id"]
        )
        one = stored[str(question["question_id"])]
        assert (one.source, one.target, one.group) == (found["source"], found["target"], found["group"])
        spans = [(list(d.span), [list(span) for span in d.deciding]) for d in one.decided or ()]
        assert spans == [(d["span"], d["deciding"]) for d in found["decided"]]


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes_lie_in_the_frame(seed: int) -> None:
    scene = random_scene(random.Random(seed), "s")
    assert 1 <= len(scene.objects) <= 6
    assert all(0 <= t.box[0] < t.box[2] <= 1 and 0 <= t.box[1] < t.box[3] <= 1 for t in scene.objects)
