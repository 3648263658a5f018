"""Questions over annotated scenes, in LXMERT's form, with the objects and words that decide each answer.

Every answer follows from the boxes, classes and colours of a COCO-format annotation. Questions whose answer hangs on
a narrow margin (two objects almost level, a nearest neighbour by a hair, a sliver of an object) are not asked.
`generate` proposes many questions per scene and keeps a selection in which, per type and mentioned noun, all answers
are about equally frequent, and likewise per scene.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetexp.data.question_templates import KINDS, TEMPLATES, fill
from hetexp.errors import DataError

MIN_AREA = 0.008  # of the scene; smaller visible parts are never asked about
SIDE_MARGIN = 0.12  # of the scene's side, between centres, for left/right/above/below
NEAR_RATIO = 1.4  # second-nearest over nearest distance, for "next to"
NEAR_LIMIT = 0.6  # of the scene's diagonal: farther apart is not "next to"
MAX_COUNT = 4
# Share of each type in a set. `relation` covers left/right and above/below.
SHARES = {
    "exist": 0.18,
    "and": 0.11,
    "or": 0.09,
    "negation": 0.12,
    "count": 0.16,
    "what_side": 0.12,
    "relation": 0.10,
    "color": 0.06,
    "next_to": 0.06,
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Thing:
    """One annotated object: boxes and centres in units of the scene's width and height, area as a fraction."""

    id: int
    name: str
    kind: str
    box: tuple[float, float, float, float]
    area: float
    color: str | None

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """What the questions may know of one image."""

    img_id: str
    width: int
    height: int
    things: tuple[Thing, ...]

    def of(self, noun: str) -> list[Thing]:
        """Return the things a class name or a kind word ("animal", "vehicle", "thing") stands for."""
        if noun in KINDS:
            return [t for t in self.things if not KINDS[noun] or t.kind in KINDS[noun]]
        return [t for t in self.things if t.name == noun]


@dataclass(frozen=True)
class Draft:
    """A question before its selection: what it asks, the nouns it is balanced over, and its answer."""

    img_id: str
    type: str
    template: str
    slots: tuple[tuple[str, str], ...]
    nouns: tuple[str, ...]
    answer: str
    foil: str | None
    objects: tuple[int, ...]


def scenes_from_coco(coco: dict[str, Any]) -> list[Scene]:
    """Read scenes from a COCO annotation dictionary (extra annotation key ``color``: a name or null).

    Raises
    ------
    DataError
        When an annotation names an image or category that the file lacks.
    """
    categories = {c["id"]: c for c in coco["categories"]}
    things: dict[int, list[Thing]] = {image["id"]: [] for image in coco["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for a in coco["annotations"]:
        if a["image_id"] not in sizes or a["category_id"] not in categories:
            raise DataError(
                f"annotation {a['id']} names image {a['image_id']} and category {a['category_id']}; "
                "both must be listed under 'images' and 'categories' of the same file"
            )
        width, height = sizes[a["image_id"]]
        x, y, w, h = a["bbox"]
        category = categories[a["category_id"]]
        things[a["image_id"]].append(
            Thing(
                id=a["id"],
                name=category["name"],
                kind=category.get("supercategory", ""),
                box=(x / width, y / height, (x + w) / width, (y + h) / height),
                area=a["area"] / (width * height),
                color=a.get("color"),
            )
        )
    return [
        Scene(Path(i["file_name"]).stem, i["width"], i["height"], tuple(things[i["id"]]))
        for i in coco["images"]
    ]


def answer_list(coco: dict[str, Any], colors: Sequence[str]) -> list[str]:
    """Return the answer vocabulary of a set of scenes: yes/no, counts, class names, colours."""
    counts = [str(n) for n in range(MAX_COUNT + 1)]
    names = sorted(c["name"] for c in coco["categories"])
    return ["yes", "no", *counts, *names, *sorted(set(colors) - set(names))]


# --- one proposal function per type; each returns None when the scene does not offer a clear question -------------


def _seen(things: Sequence[Thing]) -> bool:
    return all(t.area >= MIN_AREA for t in things)


def _yes(condition: bool) -> tuple[str, str]:
    """Return answer and foil of a yes/no question."""
    return ("yes", "no") if condition else ("no", "yes")


def _pick_noun(scene: Scene, names: Sequence[str], rng: random.Random, kinds: bool = True) -> str | None:
    """Return a present or an absent noun with even odds; a present one has a clearly visible instance."""
    pool = [*names, *(k for k in KINDS if k != "thing")] if kinds else list(names)
    wanted = rng.random() < 0.5
    fitting = [n for n in pool if bool(scene.of(n)) == wanted and (not wanted or _clear(scene, n))]
    return rng.choice(fitting) if fitting else None


def _clear(scene: Scene, noun: str) -> bool:
    return any(t.area >= 2 * MIN_AREA for t in scene.of(noun))


def _exist(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    noun = _pick_noun(scene, names, rng)
    if noun is None:
        return None
    found = scene.of(noun)
    answer, foil = _yes(bool(found))
    return _draft(scene, "exist", rng, {"x": noun}, (noun,), answer, foil, found)


def _negation(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    noun = _pick_noun(scene, names, rng)
    if noun is None:
        return None
    found = scene.of(noun)
    answer, foil = _yes(not found)
    return _draft(scene, "negation", rng, {"x": noun}, (noun,), answer, foil, found)


def _joined(word: str) -> Callable[[Scene, Sequence[str], random.Random], Draft | None]:
    def propose(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
        x, y = _pick_noun(scene, names, rng, kinds=False), _pick_noun(scene, names, rng, kinds=False)
        if x is None or y is None or x == y:
            return None
        first, second = scene.of(x), scene.of(y)
        true = bool(first and second) if word == "and" else bool(first or second)
        answer, foil = _yes(true)
        deciding = [*first, *second] if true else []
        return _draft(scene, word, rng, {"x": x, "y": y}, (x, y), answer, foil, deciding)

    return propose


def _count(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    pool = [*names, *KINDS]
    # Repeated nouns are few in a scene and would be drawn too seldom.
    repeated = [n for n in pool if len(scene.of(n)) > 1]
    noun = rng.choice(repeated) if repeated and rng.random() < 0.6 else rng.choice(pool)
    found = scene.of(noun)
    if len(found) > MAX_COUNT or not _seen(found):
        return None
    near = [n for n in (len(found) - 1, len(found) + 1) if 0 <= n <= MAX_COUNT]
    answer, foil = str(len(found)), str(rng.choice(near))
    return _draft(scene, "count", rng, {"x": noun}, (noun,), answer, foil, found)


def _what_side(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    kind, side = rng.choice(list(KINDS)), rng.choice(("left", "right"))
    sign = 1.0 if side == "left" else -1.0
    ordered = sorted(scene.of(kind), key=lambda t: sign * t.centre[0])
    others = [t for t in ordered if t.name != ordered[0].name]
    if not others or ordered[0].area < MIN_AREA:
        return None
    if sign * (others[0].centre[0] - ordered[0].centre[0]) < SIDE_MARGIN:
        return None
    slots = {"kind": kind, "side": side}
    return _draft(
        scene, "what_side", rng, slots, (f"{kind} {side}",), ordered[0].name, others[-1].name, ordered[:1]
    )


def _relation(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    single = [t for t in scene.things if len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
    if len(single) < 2:
        return None
    one, other = rng.sample(single, 2)
    axis = rng.randrange(2)
    shift = other.centre[axis] - one.centre[axis]
    if abs(shift) < SIDE_MARGIN:
        return None
    true_side = ("left", "above")[axis] if shift > 0 else ("right", "below")[axis]
    holds = rng.random() < 0.5
    side = true_side if holds else _OPPOSITE[true_side]
    answer, foil = _yes(holds)
    slots = {"x": one.name, "y": other.name, "side": side}
    nouns = (one.name, other.name, side)
    form = "relation_x" if axis == 0 else "relation_y"
    return _draft(scene, "relation", rng, slots, nouns, answer, foil, [one, other], form)


def _color(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    fitting = [t for t in scene.things if t.color and len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
    if not fitting:
        return None
    thing = rng.choice(fitting)
    foils = sorted({t.color for t in scene.things if t.color} - {thing.color})
    foil = rng.choice(foils) if foils else None
    return _draft(scene, "color", rng, {"x": thing.name}, (thing.name,), str(thing.color), foil, [thing])


def gap(one: Thing, other: Thing, scene: Scene) -> float:
    """Return the distance between the edges of two boxes in pixels, 0 where they touch."""
    dx = max(0.0, one.box[0] - other.box[2], other.box[0] - one.box[2]) * scene.width
    dy = max(0.0, one.box[1] - other.box[3], other.box[1] - one.box[3]) * scene.height
    return math.hypot(dx, dy)


def distance(one: Thing, other: Thing, scene: Scene) -> float:
    """Return the distance between the centres of two boxes in pixels."""
    dx = (one.centre[0] - other.centre[0]) * scene.width
    dy = (one.centre[1] - other.centre[1]) * scene.height
    return math.hypot(dx, dy)


def _next_to(scene: Scene, names: Sequence[str], rng: random.Random) -> Draft | None:
    single = [t for t in scene.things if len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
    if not single:
        return None
    thing = rng.choice(single)
    near = sorted((t for t in scene.things if t is not thing), key=lambda t: distance(thing, t, scene))
    rivals = [t for t in near if t.name != near[0].name]
    if not rivals or near[0].area < MIN_AREA:
        return None
    closest, rival = near[0], rivals[0]
    reach = distance(thing, closest, scene)
    clear = distance(thing, rival, scene) >= NEAR_RATIO * reach
    nearest_by_edge = all(gap(thing, closest, scene) <= gap(thing, t, scene) for t in rivals)
    if not clear or not nearest_by_edge or reach > NEAR_LIMIT * math.hypot(scene.width, scene.height):
        return None
    return _draft(
        scene,
        "next_to",
        rng,
        {"x": thing.name},
        (thing.name,),
        closest.name,
        rival.name,
        [thing, closest],
    )


def _draft(
    scene: Scene,
    kind: str,
    rng: random.Random,
    slots: dict[str, str],
    nouns: tuple[str, ...],
    answer: str,
    foil: str | None,
    objects: Sequence[Thing],
    form: str | None = None,
) -> Draft:
    template = rng.choice(TEMPLATES[form or kind])
    ids = tuple(sorted(t.id for t in objects))
    return Draft(scene.img_id, kind, template, tuple(slots.items()), nouns, answer, foil, ids)


_PROPOSE: dict[str, Callable[[Scene, Sequence[str], random.Random], Draft | None]] = {
    "exist": _exist,
    "and": _joined("and"),
    "or": _joined("or"),
    "negation": _negation,
    "count": _count,
    "what_side": _what_side,
    "relation": _relation,
    "color": _color,
    "next_to": _next_to,
}


# --- selection ------------------------------------------------------------------------------------------------


def _proposals(
    scenes: Sequence[Scene], kind: str, names: Sequence[str], rng: random.Random, tries: int
) -> Iterator[Draft]:
    """Yield up to `tries` drafts of one type per scene, without repeating what is asked of a scene."""
    for scene in scenes:
        asked: set[tuple[tuple[str, str], ...]] = set()
        for _ in range(tries):
            draft = _PROPOSE[kind](scene, names, rng)
            if draft is not None and draft.slots not in asked:
                asked.add(draft.slots)
                yield draft


def _select(
    drafts: list[Draft],
    wanted: int,
    rng: random.Random,
    handful: int,
    load: Counter[str],
    told: Counter[tuple[str, str]],
) -> list[Draft]:
    """Pick drafts one at a time, each time the one of a random handful whose answer is rarest for its nouns.

    `load` and `told` count questions per scene and answers per scene over all types, and are updated.
    """
    per_noun: Counter[tuple[str, str]] = Counter()
    per_answer: Counter[str] = Counter()
    chosen: list[Draft] = []

    def cost(draft: Draft) -> float:
        nouns = sum(per_noun[noun, draft.answer] for noun in draft.nouns)
        answers = per_answer[draft.answer] / max(1, len(chosen))
        # Few nouns occur three or four times: there the answers' own balance counts for more.
        weight = 1 if draft.type == "count" else 4
        return weight * nouns + 60 * answers + load[draft.img_id] + 2 * told[draft.img_id, draft.answer]

    while drafts and len(chosen) < wanted:
        spots = [rng.randrange(len(drafts)) for _ in range(handful)]
        best = min(spots, key=lambda i: cost(drafts[i]))
        drafts[best], drafts[-1] = drafts[-1], drafts[best]
        draft = drafts.pop()
        chosen.append(draft)
        per_answer[draft.answer] += 1
        load[draft.img_id] += 1
        told[draft.img_id, draft.answer] += 1
        for noun in draft.nouns:
            per_noun[noun, draft.answer] += 1
    return chosen


def generate(
    scenes: Sequence[Scene],
    names: Sequence[str],
    count: int,
    seed: int,
    tries: int = 24,
    handful: int = 96,
) -> list[dict[str, Any]]:
    """Make about `count` balanced questions over the scenes; the same arguments give the same questions.

    Parameters
    ----------
    scenes
        Annotated scenes.
    names
        All class names that may be asked for, present or not.
    count
        Number of questions; fewer come back when the scenes do not offer enough of a type.
    seed
        Decides wording, nouns and selection.
    tries
        Proposals per scene and type before selection.
    handful
        How many drafts each choice compares: more is better balanced, and slower.

    Returns
    -------
    LXMERT items ``{img_id, sent, question_id, question_type, answer_type, label: {answer: 1.0}}`` with the further
    keys ``objects`` (annotation ids that decide the answer; empty where an absence does), ``words`` (``[start, end)``
    character spans of the deciding words in ``sent``) and ``foil`` (the natural other answer, or null).
    """
    load: Counter[str] = Counter()
    told: Counter[tuple[str, str]] = Counter()
    drafts: list[Draft] = []
    for kind in sorted(SHARES, key=lambda k: SHARES[k]):  # scarce types choose their scenes first
        rng = random.Random(f"{seed} {kind}")
        pool = list(_proposals(scenes, kind, names, rng, tries))
        drafts += _select(pool, round(count * SHARES[kind]), rng, handful, load, told)
    order = {scene.img_id: i for i, scene in enumerate(scenes)}
    drafts.sort(key=lambda d: order[d.img_id])  # stable: keeps types together within a scene
    return [_item(draft, i) for i, draft in enumerate(drafts)]


def _item(draft: Draft, number: int) -> dict[str, Any]:
    sentence, spans = fill(draft.template, **dict(draft.slots))
    if draft.answer in ("yes", "no"):
        answer_type = "yes/no"
    else:
        answer_type = "number" if draft.type == "count" else "other"
    return {
        "img_id": draft.img_id,
        "sent": sentence,
        "question_id": number,
        "question_type": draft.type,
        "answer_type": answer_type,
        "label": {draft.answer: 1.0},
        "objects": list(draft.objects),
        "words": spans,
        "foil": draft.foil,
    }


# --- files and blind accuracies -------------------------------------------------------------------------------


def save_questions(questions: Sequence[dict[str, Any]], path: Path) -> None:
    """Write questions as a JSON list, one question a line, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    lines = ",\n".join(json.dumps(q, ensure_ascii=False) for q in questions)
    temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    temporary.replace(path)


def answer_of(question: dict[str, Any]) -> str:
    """Return the best answer of a question."""
    label: dict[str, float] = question["label"]
    return max(label, key=lambda answer: label[answer])


def blind_accuracy(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the accuracy of guessing without the image, and without the question.

    ``question_string``: the commonest training answer to the very same sentence (falling back on the type's);
    ``question_type``: to the type; ``no_question``: over all questions; ``image_oracle``: the commonest answer among
    the other test questions of the same image, an upper bound on what the image alone can tell (seen answers).
    """
    by: dict[str, dict[Any, Counter[str]]] = {"sent": {}, "question_type": {}, "all": {}}
    for q in train:
        for key, table in by.items():
            table.setdefault(q.get(key, ""), Counter())[answer_of(q)] += 1
    guess = {
        key: {k: counts.most_common(1)[0][0] for k, counts in table.items()} for key, table in by.items()
    }
    of_image: dict[str, Counter[str]] = {}
    for q in test:
        of_image.setdefault(q["img_id"], Counter())[answer_of(q)] += 1
    hits: Counter[str] = Counter()
    for q in test:
        truth, by_type = answer_of(q), guess["question_type"].get(q["question_type"])
        hits["question_string"] += guess["sent"].get(q["sent"], by_type) == truth
        hits["question_type"] += by_type == truth
        hits["no_question"] += guess["all"].get("") == truth
        hits["image_oracle"] += of_image[q["img_id"]].most_common(1)[0][0] == truth
    keys = ("question_string", "question_type", "no_question", "image_oracle")
    return {key: hits[key] / max(1, len(test)) for key in keys}


def answers_by_group(questions: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return how often each answer occurs per question type."""
    groups = {kind: Counter[str]() for kind in SHARES}
    for q in questions:
        groups[q["question_type"]][answer_of(q)] += 1
    return groups
