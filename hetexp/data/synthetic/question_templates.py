"""Wording of the embedded questions: templates per question type, and English for class names.

A template is plain text with slots. Words in square brackets decide the answer; the brackets are removed and
become character spans. Slots: ``{a}`` "a [zebra]", ``{x}`` "[zebra]", ``{xs}`` "[zebras]"; ``{b}`` and ``{y}`` the
same for a second noun; ``{side}`` "[left]"; ``{kind}`` "[animal]".
"""

from __future__ import annotations

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": (
        "is there {a}?",
        "is there {a} in the picture?",
        "can you see {a}?",
        "do you see {a} in the image?",
        "does the picture show {a}?",
        "is {a} visible?",
        "are there any {xs}?",
        "are there any {xs} in the picture?",
    ),
    "and": (
        "is there {a} [and] {b}?",
        "is there {a} [and] {b} in the picture?",
        "can you see {a} [and] {b}?",
        "does the picture show {a} [and] {b}?",
        "are there [both] {xs} [and] {ys}?",
    ),
    "or": (
        "is there {a} [or] {b}?",
        "is there {a} [or] {b} in the picture?",
        "can you see {a} [or] {b}?",
        "does the picture show {a} [or] {b}?",
        "are there any {xs} [or] {ys}?",
    ),
    "negation": (
        "is there [no] {x}?",
        "is there [no] {x} in the picture?",
        "are there [no] {xs}?",
        "is the picture [without] {a}?",
        "is it true that there is [no] {x}?",
        "is {a} [missing]?",
    ),
    "count": (
        "[how many] {xs} are there?",
        "[how many] {xs} are in the picture?",
        "[how many] {xs} can you see?",
        "what is the [number] of {xs}?",
    ),
    "what_side": (
        "what {kind} is on the {side}?",
        "which {kind} is on the {side}?",
        "what {kind} is on the {side} side?",
        "which {kind} is farthest to the {side}?",
    ),
    "relation_x": (
        "is the {x} {side} of the {y}?",
        "is the {x} to the {side} of the {y}?",
        "can you see the {x} {side} of the {y}?",
    ),
    "relation_y": (
        "is the {x} {side} the {y}?",
        "can you see the {x} {side} the {y}?",
    ),
    "color": (
        "what [color] is the {x}?",
        "what is the [color] of the {x}?",
        "which [color] does the {x} have?",
    ),
    "next_to": (
        "what is the {x} [next] to?",
        "what is [next] to the {x}?",
        "what is [closest] to the {x}?",
        "what is [nearest] to the {x}?",
    ),
}

# Kinds a question may name instead of a class: word, supercategories of COCO it stands for (empty: everything).
KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("animal",),
    "vehicle": ("vehicle",),
    "thing": (),
}

_IRREGULAR = {
    "person": "people",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "skis": "skis",
    "scissors": "scissors",
    "wine glass": "wine glasses",
}


def plural(noun: str) -> str:
    """Return the plural of a class name; of several words only the last changes."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(noun: str) -> str:
    """Return ``"a [noun]"`` or ``"an [noun]"`` with the noun marked as deciding."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} [{noun}]"


def fill(template: str, **nouns: str) -> tuple[str, list[list[int]]]:
    """Fill a template and take the brackets off.

    Returns:
        The sentence, and ``[start, end)`` character spans of its deciding words, one span per word.
    """
    slots: dict[str, str] = {}
    if "x" in nouns:
        slots |= {"x": f"[{nouns['x']}]", "a": with_article(nouns["x"]), "xs": f"[{plural(nouns['x'])}]"}
    if "y" in nouns:
        slots |= {"y": f"[{nouns['y']}]", "b": with_article(nouns["y"]), "ys": f"[{plural(nouns['y'])}]"}
    slots |= {name: f"[{nouns[name]}]" for name in ("side", "kind") if name in nouns}
    marked = template.format(**slots)
    sentence, spans, inside = "", [], False
    for character in marked:
        if character == "[":
            inside = True
            spans.append([len(sentence), len(sentence)])
        elif character == "]":
            inside = False
        else:
            if inside and character == " ":
                spans.append([len(sentence) + 1, len(sentence) + 1])
            sentence += character
            if inside and character != " ":
                spans[-1][1] = len(sentence)
    return sentence, spans


def words(nouns: list[str]) -> list[str]:
    """Return every word that templates over these class names can contain, sorted."""
    found: set[str] = set()
    everything = sorted(set(nouns) | set(KINDS))
    sides = ("left", "right", "above", "below")
    for forms in TEMPLATES.values():
        for template in forms:
            for noun in everything:
                sentence, _ = fill(template, x=noun, y=noun, side=sides[0], kind=noun)
                found.update(sentence.replace("?", " ?").split())
    return sorted(found | set(sides))
