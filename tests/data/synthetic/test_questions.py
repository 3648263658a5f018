"""The question generator, and the shipped questions against the annotations they were made from."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LxmertForQuestionAnswering

from hetexp.data.regions import open_regions
from hetexp.data.synthetic.candidates import scenes_from_coco
from hetexp.data.synthetic.question_templates import TEMPLATES, fill, plural, with_article
from hetexp.data.synthetic.questions import (
    SHARES,
    answers_by_group,
    blind_accuracy,
    generate,
)
from hetexp.data.vqa import write_items
from hetexp.errors import DataError
from hetexp.paths import asset

SUPER = {"animal": ("animal",), "vehicle": ("vehicle",)}


@pytest.fixture(scope="module")
def coco() -> dict[str, Any]:
    path = Path(asset("scenes")) / "val" / "annotations.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    path = Path(asset("vqa")) / "questions.json"
    loaded: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def names_of(coco: dict[str, Any]) -> list[str]:
    return sorted(c["name"] for c in coco["categories"])


class Truth:
    """Answers questions from their text and the annotations alone, sharing nothing with the generator."""

    def __init__(self, coco: dict[str, Any]) -> None:
        self.category = {c["id"]: c for c in coco["categories"]}
        self.image = {Path(i["file_name"]).stem: i for i in coco["images"]}
        self.objects: dict[str, list[dict[str, Any]]] = {stem: [] for stem in self.image}
        stems = {i["id"]: stem for stem, i in self.image.items()}
        for a in coco["annotations"]:
            self.objects[stems[a["image_id"]]].append(a)
        forms = {c["name"]: c["name"] for c in coco["categories"]}
        forms |= {plural(n): n for n in forms} | {k: k for k in (*SUPER, "thing")}
        forms |= {plural(k): k for k in (*SUPER, "thing")}
        self.forms = forms
        alternatives = sorted(forms, key=len, reverse=True)
        self.pattern = re.compile(r"\b(" + "|".join(map(re.escape, alternatives)) + r")\b")

    def nouns(self, sentence: str) -> list[str]:
        return [self.forms[m] for m in self.pattern.findall(sentence)]

    def of(self, image: str, noun: str) -> list[dict[str, Any]]:
        def fits(a: dict[str, Any]) -> bool:
            category = self.category[a["category_id"]]
            return noun == "thing" or category["name"] == noun or category.get("supercategory") in SUPER.get(noun, ())

        return [a for a in self.objects[image] if fits(a)]

    def name(self, a: dict[str, Any]) -> str:
        return str(self.category[a["category_id"]]["name"])

    @staticmethod
    def centre(a: dict[str, Any]) -> tuple[float, float]:
        x, y, w, h = a["bbox"]
        return x + w / 2, y + h / 2

    def answer(self, q: dict[str, Any]) -> tuple[str, set[int]]:
        """Return the answer and the ids of the deciding objects."""
        sent, image = q["sent"], q["img_id"]
        tokens = re.findall(r"\w+", sent)
        kind = next((w for w in ("color", "left", "right", "above", "below") if w in tokens), None)
        nouns = self.nouns(sent)
        found = [self.of(image, n) for n in nouns]

        def ids(*groups: list[dict[str, Any]]) -> set[int]:
            return {a["id"] for group in groups for a in group}

        if "many" in tokens or "number" in tokens:
            return str(len(found[0])), ids(found[0])
        if kind == "color":
            assert len(found[0]) == 1
            return found[0][0]["color"], ids(found[0])
        if {"next", "closest", "nearest"} & set(tokens):
            assert len(found[0]) == 1
            here = self.centre(found[0][0])
            others = [a for a in self.objects[image] if a is not found[0][0]]
            best = min(others, key=lambda a: math.dist(here, self.centre(a)))
            return self.name(best), ids(found[0], [best])
        if kind and tokens[0] in ("what", "which"):
            best = min(found[0], key=lambda a: self.centre(a)[0] * (1 if kind == "left" else -1))
            return self.name(best), {best["id"]}
        if kind:
            assert [len(f) for f in found] == [1, 1]
            one, other = self.centre(found[0][0]), self.centre(found[1][0])
            axis = 0 if kind in ("left", "right") else 1
            holds = (one[axis] < other[axis]) == (kind in ("left", "above"))
            return ("yes" if holds else "no"), ids(*found)
        if {"and", "or"} & set(tokens):
            holds = all(found) if "and" in tokens else any(found)
            return ("yes" if holds else "no"), ids(*found) if holds else set()
        negated = bool({"no", "without", "missing"} & set(tokens))
        return ("yes" if bool(found[0]) != negated else "no"), ids(found[0])


def test_every_shipped_answer_follows_from_the_annotations(
    coco: dict[str, Any], questions: list[dict[str, Any]]
) -> None:
    truth = Truth(coco)
    assert len(questions) >= 2400
    assert {q["img_id"] for q in questions} <= set(truth.image)
    for q in questions:
        answer, objects = truth.answer(q)
        assert q["label"] == {answer: 1.0}, q
        assert set(q["objects"]) == objects, q
        assert q["foil"] != answer


def test_shipped_questions_are_what_the_generator_makes(coco: dict[str, Any], questions: list[dict[str, Any]]) -> None:
    card = json.loads((Path(asset("vqa")) / "recipe.json").read_text(encoding="utf-8"))
    again = generate(scenes_from_coco(coco), names_of(coco), card["questions"], card["seed"])
    assert again == questions


def test_spans_are_whole_deciding_words(questions: list[dict[str, Any]]) -> None:
    for q in questions:
        assert q["sent"] == q["sent"].lower()
        assert q["sent"].endswith("?")
        assert "[" not in q["sent"]
        whole = {m.span() for m in re.finditer(r"\w+", q["sent"])}
        assert q["words"]
        assert {tuple(span) for span in q["words"]} <= whole
        said = {q["sent"][a:b] for a, b in q["words"]}
        assert not said & {"is", "are", "there", "the", "a", "an", "of", "to", "in", "picture", "you", "can"}
        must = {"and": "and", "or": "or", "count": None, "color": "color"}.get(q["question_type"])
        assert must is None or must in said
        if q["question_type"] == "negation":
            assert said & {"no", "without", "missing"}


def test_answers_are_balanced(questions: list[dict[str, Any]]) -> None:
    groups = answers_by_group(questions)
    assert set(groups) == set(SHARES)
    assert all(sum(c.values()) >= 60 for c in groups.values())
    for kind in ("exist", "and", "or", "negation", "relation"):
        assert abs(groups[kind]["yes"] - groups[kind]["no"]) <= 0.06 * sum(groups[kind].values()), kind
    per_noun: Counter[tuple[str, str, str]] = Counter()
    for q in questions:
        if q["question_type"] in ("exist", "negation"):
            noun = q["sent"][q["words"][-1][0] : q["words"][-1][1]]
            per_noun[q["question_type"], noun, next(iter(q["label"]))] += 1
    by_type = {"exist": [0, 0], "negation": [0, 0]}
    for (kind, noun, _), _ in per_noun.items():
        yes, no = per_noun[kind, noun, "yes"], per_noun[kind, noun, "no"]
        by_type[kind][0] += max(yes, no)
        by_type[kind][1] += yes + no
    for most, total in by_type.values():
        assert most / total < 0.68  # wording (singular, plural) splits nouns into small groups
    counts = groups["count"]
    assert max(counts.values()) <= 0.33 * sum(counts.values())
    assert min(counts[n] for n in "01234") >= 25


def test_blind_guessing_fails(coco: dict[str, Any], questions: list[dict[str, Any]]) -> None:
    card = json.loads((Path(asset("vqa")) / "recipe.json").read_text(encoding="utf-8"))
    blind = card["blind_accuracy"]
    assert blind["question_string"] < 0.5
    assert blind["question_type"] < 0.5
    assert blind["image_oracle"] < 0.55
    here = blind_accuracy(questions, questions)
    assert here["question_type"] < 0.5
    assert here["image_oracle"] == pytest.approx(blind["image_oracle"], abs=1e-3)


def test_generator_is_deterministic_and_seeds_differ(coco: dict[str, Any], tmp_path: Path) -> None:
    scenes, names = scenes_from_coco(coco)[:60], names_of(coco)
    first, again = generate(scenes, names, 300, 5), generate(scenes, names, 300, 5)
    assert first == again
    assert first != generate(scenes, names, 300, 6)
    write_items(first, tmp_path / "q.json")
    assert json.loads((tmp_path / "q.json").read_text(encoding="utf-8")) == first
    assert list(tmp_path.iterdir()) == [tmp_path / "q.json"]


def test_every_word_has_its_own_token(questions: list[dict[str, Any]], coco: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(asset("lxmert"), local_files_only=True)
    sentences = {q["sent"] for q in questions}
    for forms in TEMPLATES.values():
        for name in names_of(coco):
            sentences |= {fill(t, x=name, y=name, side="left", kind="animal")[0] for t in forms}
    for sentence in sorted(sentences):
        ids = tokenizer(sentence)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        pieces = ["[CLS]", *re.findall(r"\w+|\?", sentence), "[SEP]"]
        assert tokenizer.convert_ids_to_tokens(ids) == pieces


def test_the_shipped_lxmert_answers(questions: list[dict[str, Any]]) -> None:
    folder = asset("lxmert")
    model = LxmertForQuestionAnswering.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    answers = json.loads((Path(folder) / "label2ans.json").read_text(encoding="utf-8"))
    store = open_regions(Path(asset("vqa")) / "regions.safetensors")
    chosen = questions[::9]
    regions = [store.regions(q["img_id"]) for q in chosen]
    inputs = tokenizer([q["sent"] for q in chosen], padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(
            **inputs,
            visual_feats=torch.stack([torch.from_numpy(r.features) for r in regions]),
            visual_pos=torch.stack([torch.from_numpy(r.boxes) for r in regions]),
        ).question_answering_score
    right = [answers[int(i)] in q["label"] for i, q in zip(scores.argmax(1), chosen, strict=True)]
    assert sum(right) / len(right) >= 0.93  # blind guessing stays below 0.4
    assert {a for q in questions for a in q["label"]} <= set(answers)


def test_an_annotation_of_an_unknown_image_is_refused() -> None:
    bad = {
        "images": [],
        "categories": [],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "area": 1}],
    }
    with pytest.raises(DataError, match="annotation 3 names image 1"):
        scenes_from_coco(bad)


def test_english() -> None:
    assert [plural(n) for n in ("person", "sheep", "bus", "zebra", "knife", "cherry")] == [
        "people",
        "sheep",
        "buses",
        "zebras",
        "knives",
        "cherries",
    ]
    assert with_article("apple") == "an [apple]"
    assert with_article("traffic light") == "a [traffic light]"
    sentence, spans = fill("is there {a} [and] {b}?", x="traffic light", y="cat")
    assert sentence == "is there a traffic light and a cat?"
    assert [sentence[a:b] for a, b in spans] == ["traffic", "light", "and", "cat"]
