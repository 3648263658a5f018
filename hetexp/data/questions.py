"""Questions over annotated scenes, in LXMERT's form, with the objects and words that decide each answer.

Every answer follows from the boxes, classes and colours of a COCO-format annotation. `generate` drafts many questions
per scene and keeps a selection in which, per type and mentioned noun, all answers are about equally frequent, and
likewise per scene.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetexp.data.question_drafts import MAX_COUNT, PROPOSE, Draft, Scene
from hetexp.data.question_templates import fill

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


def answer_list(coco: dict[str, Any], colors: Sequence[str]) -> list[str]:
    """Return the answer vocabulary of a set of scenes: yes/no, counts, class names, colours."""
    counts = [str(n) for n in range(MAX_COUNT + 1)]
    names = sorted(c["name"] for c in coco["categories"])
    return ["yes", "no", *counts, *names, *sorted(set(colors) - set(names))]


def _proposals(
    scenes: Sequence[Scene], kind: str, names: Sequence[str], rng: random.Random, tries: int
) -> Iterator[Draft]:
    """Yield up to `tries` drafts of one type per scene, without repeating what is asked of a scene."""
    for scene in scenes:
        asked: set[tuple[tuple[str, str], ...]] = set()
        for _ in range(tries):
            draft = PROPOSE[kind](scene, names, rng)
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
    shares: Mapping[str, float] = SHARES,
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
    shares
        Share of each type.

    Returns
    -------
    LXMERT items ``{img_id, sent, question_id, question_type, answer_type, label: {answer: 1.0}}`` with the further
    keys ``objects`` (annotation ids that decide the answer; empty where an absence does), ``words`` (``[start, end)``
    character spans of the deciding words in ``sent``) and ``foil`` (the natural other answer, or null).
    """
    load: Counter[str] = Counter()
    told: Counter[tuple[str, str]] = Counter()
    drafts: list[Draft] = []
    for kind in sorted(shares, key=lambda k: shares[k]):  # scarce types choose their scenes first
        rng = random.Random(f"{seed} {kind}")
        pool = list(_proposals(scenes, kind, names, rng, tries))
        drafts += _select(pool, round(count * shares[kind]), rng, handful, load, told)
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
    guess = {key: {k: counts.most_common(1)[0][0] for k, counts in table.items()} for key, table in by.items()}
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
