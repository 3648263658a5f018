"""Scenes in words: the embedded questions as text, with an answer in words and the source words that decide each.

A scene becomes a list of its objects from left to right, each with its colour where it has one and its height in tenths
of the picture: ``red apple at height 7 , dog at height 2 .``; the question follows. Of the embedded questions those
that compare two things are left out: what lies next to something is not settled by such a description, and a model of
this size learns to join and compare slowly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetexp.data.synthetic.candidates import AnnotatedObject, AnnotatedScene
from hetexp.data.synthetic.question_templates import fill, words
from hetexp.data.synthetic.questions import answer_list, answer_of
from hetexp.data.synthetic.sprites import SpriteSet, load_sprites

HEIGHT = "height"  # asks where a thing is that occurs once; the other types are those of `questions`
ASKED = ("exist", "negation", "count", "what_side", "color")
LEVELS = 10  # heights that a description tells apart
COUNT_ODDS = (0.12, 0.18, 0.22, 0.20, 0.16, 0.12)  # of 1..6 objects
REPEATED = 0.3  # chance that an object is of the same class as the one before
SIDES = (0.08, 0.6)  # of an object, in units of the scene's, drawn log-uniformly


@dataclass(frozen=True)
class DecidedWord:
    """A word of a target and the words of its source that decide it.

    Attributes:
        at: which word of the target, from 0.
        role: "answer" (what the question asks for), "evidence" (the height of the object that was found) or "copied"
            (a noun taken over from the question).
        deciding: words of the source, from 0.
    """

    at: int
    role: str
    deciding: tuple[int, ...]


@dataclass(frozen=True)
class DescribedQuestion:
    """A scene in words with a question, and its answer in words; words are separated by spaces."""

    source: str
    target: str
    question_type: str
    decided: tuple[DecidedWord, ...]

    def item(self, name: str, group: str) -> dict[str, Any]:
        """The item of a file of sentences, see `hetexp.data.sentences`; `group` is the scene's image."""
        read, written = _spans(self.source), _spans(self.target)
        decided = [
            {"span": written[word.at], "deciding": [read[i] for i in word.deciding], "role": word.role}
            for word in self.decided
        ]
        about = {"id": name, "group": group, "kind": self.question_type}
        return {**about, "source": self.source, "target": self.target, "decided": decided}


def _spans(text: str) -> list[list[int]]:
    """Character spans of a text's words."""
    return [list(word.span()) for word in re.finditer(r"\S+", text)]


def height(thing: AnnotatedObject) -> int:
    """Height of an object's centre in tenths of the picture: 0 the lowest, 9 the highest."""
    return min(LEVELS - 1, int(LEVELS * (1 - thing.centre[1])))


def height_question(scene: AnnotatedScene, rng: random.Random) -> dict[str, Any] | None:
    """Ask for the height of a thing that no other has the name of; None where every name occurs twice.

    Returns:
        An item as of `questions.generate`.
    """
    names = [thing.name for thing in scene.objects]
    single = [thing for thing in scene.objects if names.count(thing.name) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    sentence, spans = fill("what is the [height] of the {x}?", x=thing.name)
    return {
        "img_id": scene.img_id,
        "question_id": f"{HEIGHT}-{scene.img_id}",
        "sent": sentence,
        "question_type": HEIGHT,
        "label": {str(height(thing)): 1.0},
        "objects": [thing.id],
        "words": spans,
    }


def describe_question(question: dict[str, Any], scene: AnnotatedScene) -> DescribedQuestion:
    """Put a question about a scene in words.

    Args:
        question: an item of `questions.generate` of a type in ASKED, or of `height_question`.
        scene: the scene that it is asked of.

    Returns:
        Source, target and deciding words. An answer that an absence decides has none: every noun of the scene bears on
        it alike.
    """
    said, at = _description(scene)
    asked, spans = _words_of(question["sent"], question["words"])
    query = tuple(len(said) + i for i in spans)
    things = [thing for thing in at if thing.id in question["objects"]]
    target, answer = _target(question, things, asked, spans)
    decided: list[DecidedWord] = []
    kind = question["question_type"]
    for i, word in enumerate(target):
        if i == answer and things:
            found = [at[thing].noun for thing in things]
            if kind == "color":
                found += [at[thing].noun - 1 for thing in things]
            if kind == HEIGHT:
                found += [at[thing].level for thing in things]
            decided.append(DecidedWord(i, "answer", tuple(sorted({*query, *found}))))
        elif things and i and target[i - 1] == "height":
            first = at[things[0]]
            decided.append(DecidedWord(i, "evidence", tuple(sorted({*query, first.noun, first.level}))))
        elif kind in ("color", "count") and word == asked[_noun(question, asked, spans)]:
            decided.append(DecidedWord(i, "copied", (len(said) + _noun(question, asked, spans),)))
    return DescribedQuestion(" ".join([*said, *asked]), " ".join(target), kind, tuple(decided))


@dataclass(frozen=True)
class _Place:
    """Which words of a description name an object and its height."""

    noun: int
    level: int


def _description(scene: AnnotatedScene) -> tuple[list[str], dict[AnnotatedObject, _Place]]:
    """The words of a scene, and where its objects stand in them, in that order."""
    said: list[str] = []
    at: dict[AnnotatedObject, _Place] = {}
    for thing in sorted(scene.objects, key=lambda t: (t.centre[0], t.id)):
        said += [thing.color] if thing.color else []
        at[thing] = _Place(len(said), len(said) + 3)
        said += [thing.name, "at", "height", str(height(thing)), ","]
    return [*said[:-1], "."], at


def _words_of(sentence: str, spans: Sequence[Sequence[int]]) -> tuple[list[str], list[int]]:
    """The words of a sentence, marks being words, and which of them the character spans cover."""
    found = list(re.finditer(r"\w+|[^\w\s]", sentence))
    starts = {start for start, _ in spans}
    return [word.group() for word in found], [i for i, word in enumerate(found) if word.start() in starts]


def _noun(question: dict[str, Any], asked: Sequence[str], spans: Sequence[int]) -> int:
    """The question's word for what is counted or has a colour: its last deciding word, bar "color"."""
    return next(i for i in reversed(spans) if asked[i] not in ("color", "number"))


def _target(
    question: dict[str, Any], things: Sequence[AnnotatedObject], asked: Sequence[str], spans: Sequence[int]
) -> tuple[list[str], int]:
    """The answer in words, and which of them answers."""
    kind, answer = question["question_type"], answer_of(question)
    evidence = ["at", "height", str(height(things[0]))] if things else []
    if kind == "exist":
        return [answer, *evidence], 0
    if kind == "count":
        return [answer, asked[_noun(question, asked, spans)]], 0
    if kind == "color":
        return ["the", asked[_noun(question, asked, spans)], "is", answer], 3
    if kind == HEIGHT:
        return evidence, 2
    if kind == "what_side":
        return ["the", answer, *evidence], 1
    return [answer], 0


def vocabulary(coco: dict[str, Any], sprites: SpriteSet | None = None) -> list[str]:
    """Every word that a source or a target can contain, sorted.

    Args:
        coco: an annotation dictionary; its categories are the class names.
        sprites: whose colours occur; None takes the embedded ones.
    """
    colors = {s.color for group in (sprites or load_sprites()).by_category.values() for s in group if s.color}
    names = [c["name"] for c in coco["categories"]]
    fixed = {",", ".", "?", "at", "height", "the", "is", *map(str, range(LEVELS))}
    return sorted(fixed | set(words(names)) - {""} | set(answer_list(coco, sorted(colors))))


def random_scene(rng: random.Random, name: str, sprites: SpriteSet | None = None) -> AnnotatedScene:
    """A scene of 1 to 6 objects that is described, not rendered.

    Args:
        rng: everything is drawn from it.
        name: its image id.
        sprites: classes and their colours; None takes the embedded ones.
    """
    known = sprites or load_sprites()
    kinds = {c["name"]: (c["id"], c["supercategory"]) for c in known.categories}
    things: list[AnnotatedObject] = []
    for i in range(1 + rng.choices(range(6), COUNT_ODDS)[0]):
        repeated = things and rng.random() < REPEATED
        noun = things[-1].name if repeated else rng.choice(known.names)
        side = SIDES[0] * (SIDES[1] / SIDES[0]) ** rng.random()
        x, y = rng.uniform(0, 1 - side), rng.uniform(0, 1 - side)
        color = rng.choice(known.by_category[noun]).color
        things.append(AnnotatedObject(i, noun, kinds[noun][1], (x, y, x + side, y + side), side * side, color))
    return AnnotatedScene(name, 320, 240, tuple(things))
