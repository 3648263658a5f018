"""Candidate questions: what an annotated scene lets one ask without doubt, one function per question type.

Questions whose answer hangs on a narrow margin (two objects almost level, a nearest neighbour by a hair, a sliver of
an object) are not asked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetexp.data.synthetic.question_templates import KINDS, TEMPLATES
from hetexp.errors import DataError

MIN_AREA = 0.008  # of the scene; smaller visible parts are never asked about
SIDE_MARGIN = 0.12  # of the scene's side, between centres, for left/right/above/below
NEAR_RATIO = 1.4  # second-nearest over nearest distance, for "next to"
NEAR_LIMIT = 0.6  # of the scene's diagonal: farther apart is not "next to"
MAX_COUNT = 4
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class AnnotatedObject:
    """One annotated object; boxes and centres in units of the scene's width and height, area as a fraction of it."""

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
class AnnotatedScene:
    """What the questions may know of one image."""

    img_id: str
    width: int
    height: int
    objects: tuple[AnnotatedObject, ...]

    def of(self, noun: str) -> list[AnnotatedObject]:
        """Return the objects that a class name or a kind word ("animal", "vehicle", "thing") stands for."""
        if noun in KINDS:
            return [t for t in self.objects if not KINDS[noun] or t.kind in KINDS[noun]]
        return [t for t in self.objects if t.name == noun]


@dataclass(frozen=True)
class Candidate:
    """A question before its selection.

    Attributes:
        img_id: the image it is asked of.
        type: question type.
        template: its wording, see `question_templates`.
        slots: what fills the template.
        nouns: what its answers are balanced over.
        answer: the right answer.
        foil: the natural other answer, if there is one.
        objects: ids of the annotations that decide the answer.
    """

    img_id: str
    type: str
    template: str
    slots: tuple[tuple[str, str], ...]
    nouns: tuple[str, ...]
    answer: str
    foil: str | None
    objects: tuple[int, ...]


def scenes_from_coco(coco: dict[str, Any]) -> list[AnnotatedScene]:
    """Read scenes from a COCO annotation dictionary (extra annotation key ``color``: a name or null).

    Raises:
        DataError: if an annotation names an image or category that the file lacks.
    """
    categories = {c["id"]: c for c in coco["categories"]}
    objects: dict[int, list[AnnotatedObject]] = {image["id"]: [] for image in coco["images"]}
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
        objects[a["image_id"]].append(
            AnnotatedObject(
                id=a["id"],
                name=category["name"],
                kind=category.get("supercategory", ""),
                box=(x / width, y / height, (x + w) / width, (y + h) / height),
                area=a["area"] / (width * height),
                color=a.get("color"),
            )
        )
    return [
        AnnotatedScene(Path(i["file_name"]).stem, i["width"], i["height"], tuple(objects[i["id"]]))
        for i in coco["images"]
    ]


# --- one proposal function per type; each returns None when the scene does not offer a clear question -------------


def _seen(objects: Sequence[AnnotatedObject]) -> bool:
    return all(t.area >= MIN_AREA for t in objects)


def _yes(condition: bool) -> tuple[str, str]:
    """Return answer and foil of a yes/no question."""
    return ("yes", "no") if condition else ("no", "yes")


def _pick_noun(scene: AnnotatedScene, names: Sequence[str], rng: random.Random, kinds: bool = True) -> str | None:
    """Return a present or an absent noun with even odds; a present one has a clearly visible instance."""
    pool = [*names, *(k for k in KINDS if k != "thing")] if kinds else list(names)
    wanted = rng.random() < 0.5
    fitting = [n for n in pool if bool(scene.of(n)) == wanted and (not wanted or _clear(scene, n))]
    return rng.choice(fitting) if fitting else None


def _clear(scene: AnnotatedScene, noun: str) -> bool:
    return any(t.area >= 2 * MIN_AREA for t in scene.of(noun))


def _exist(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    noun = _pick_noun(scene, names, rng)
    if noun is None:
        return None
    found = scene.of(noun)
    answer, foil = _yes(bool(found))
    return _candidate(scene, "exist", rng, {"x": noun}, (noun,), answer, foil, found)


def _negation(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    noun = _pick_noun(scene, names, rng)
    if noun is None:
        return None
    found = scene.of(noun)
    answer, foil = _yes(not found)
    return _candidate(scene, "negation", rng, {"x": noun}, (noun,), answer, foil, found)


def _joined(word: str) -> Callable[[AnnotatedScene, Sequence[str], random.Random], Candidate | None]:
    def propose(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
        x, y = _pick_noun(scene, names, rng, kinds=False), _pick_noun(scene, names, rng, kinds=False)
        if x is None or y is None or x == y:
            return None
        first, second = scene.of(x), scene.of(y)
        true = bool(first and second) if word == "and" else bool(first or second)
        answer, foil = _yes(true)
        deciding = [*first, *second] if true else []
        return _candidate(scene, word, rng, {"x": x, "y": y}, (x, y), answer, foil, deciding)

    return propose


def _count(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    pool = [*names, *KINDS]
    # Repeated nouns are few in a scene and would be drawn too seldom.
    repeated = [n for n in pool if len(scene.of(n)) > 1]
    noun = rng.choice(repeated) if repeated and rng.random() < 0.6 else rng.choice(pool)
    found = scene.of(noun)
    if len(found) > MAX_COUNT or not _seen(found):
        return None
    near = [n for n in (len(found) - 1, len(found) + 1) if 0 <= n <= MAX_COUNT]
    answer, foil = str(len(found)), str(rng.choice(near))
    return _candidate(scene, "count", rng, {"x": noun}, (noun,), answer, foil, found)


def _what_side(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    kind, side = rng.choice(list(KINDS)), rng.choice(("left", "right"))
    sign = 1.0 if side == "left" else -1.0
    ordered = sorted(scene.of(kind), key=lambda t: sign * t.centre[0])
    others = [t for t in ordered if t.name != ordered[0].name]
    if not others or ordered[0].area < MIN_AREA:
        return None
    if sign * (others[0].centre[0] - ordered[0].centre[0]) < SIDE_MARGIN:
        return None
    slots = {"kind": kind, "side": side}
    return _candidate(
        scene, "what_side", rng, slots, (f"{kind} {side}",), ordered[0].name, others[-1].name, ordered[:1]
    )


def _relation(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    single = [t for t in scene.objects if len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
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
    return _candidate(scene, "relation", rng, slots, nouns, answer, foil, [one, other], form)


def _color(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    fitting = [t for t in scene.objects if t.color and len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
    if not fitting:
        return None
    thing = rng.choice(fitting)
    foils = sorted({t.color for t in scene.objects if t.color} - {thing.color})
    foil = rng.choice(foils) if foils else None
    return _candidate(scene, "color", rng, {"x": thing.name}, (thing.name,), str(thing.color), foil, [thing])


def gap(one: AnnotatedObject, other: AnnotatedObject, scene: AnnotatedScene) -> float:
    """Return the distance between the edges of two boxes in pixels, 0 where they touch."""
    dx = max(0.0, one.box[0] - other.box[2], other.box[0] - one.box[2]) * scene.width
    dy = max(0.0, one.box[1] - other.box[3], other.box[1] - one.box[3]) * scene.height
    return math.hypot(dx, dy)


def distance(one: AnnotatedObject, other: AnnotatedObject, scene: AnnotatedScene) -> float:
    """Return the distance between the centres of two boxes in pixels."""
    dx = (one.centre[0] - other.centre[0]) * scene.width
    dy = (one.centre[1] - other.centre[1]) * scene.height
    return math.hypot(dx, dy)


def _next_to(scene: AnnotatedScene, names: Sequence[str], rng: random.Random) -> Candidate | None:
    single = [t for t in scene.objects if len(scene.of(t.name)) == 1 and t.area >= MIN_AREA]
    if not single:
        return None
    thing = rng.choice(single)
    near = sorted((t for t in scene.objects if t is not thing), key=lambda t: distance(thing, t, scene))
    rivals = [t for t in near if t.name != near[0].name]
    if not rivals or near[0].area < MIN_AREA:
        return None
    closest, rival = near[0], rivals[0]
    reach = distance(thing, closest, scene)
    clear = distance(thing, rival, scene) >= NEAR_RATIO * reach
    nearest_by_edge = all(gap(thing, closest, scene) <= gap(thing, t, scene) for t in rivals)
    if not clear or not nearest_by_edge or reach > NEAR_LIMIT * math.hypot(scene.width, scene.height):
        return None
    return _candidate(
        scene,
        "next_to",
        rng,
        {"x": thing.name},
        (thing.name,),
        closest.name,
        rival.name,
        [thing, closest],
    )


def _candidate(
    scene: AnnotatedScene,
    kind: str,
    rng: random.Random,
    slots: dict[str, str],
    nouns: tuple[str, ...],
    answer: str,
    foil: str | None,
    objects: Sequence[AnnotatedObject],
    form: str | None = None,
) -> Candidate:
    template = rng.choice(TEMPLATES[form or kind])
    ids = tuple(sorted(t.id for t in objects))
    return Candidate(scene.img_id, kind, template, tuple(slots.items()), nouns, answer, foil, ids)


PROPOSE: dict[str, Callable[[AnnotatedScene, Sequence[str], random.Random], Candidate | None]] = {
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
