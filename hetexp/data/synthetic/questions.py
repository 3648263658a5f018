"""Questions over annotated scenes, in LXMERT's form, with the objects and words that decide each answer.

Every answer follows from the boxes, classes and colours of a COCO-format annotation. `generate` proposes many
candidates per scene and keeps a selection in which, per type and mentioned noun, all answers are about equally
frequent, and likewise per scene.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hetexp.data.synthetic.candidates import MAX_COUNT, PROPOSE, AnnotatedScene, Candidate
from hetexp.data.synthetic.question_templates import fill

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
    scenes: Sequence[AnnotatedScene], kind: str, names: Sequence[str], rng: random.Random, tries: int
) -> Iterator[Candidate]:
    """Yield up to `tries` candidates of one type per scene, without repeating what is asked of a scene."""
    for scene in scenes:
        asked: set[tuple[tuple[str, str], ...]] = set()
        for _ in range(tries):
            candidate = PROPOSE[kind](scene, names, rng)
            if candidate is not None and candidate.slots not in asked:
                asked.add(candidate.slots)
                yield candidate


def _select(
    candidates: list[Candidate],
    wanted: int,
    rng: random.Random,
    n_candidates: int,
    scene_counts: Counter[str],
    answer_counts: Counter[tuple[str, str]],
) -> list[Candidate]:
    """Pick candidates one at a time, each time the one of `n_candidates` random ones whose answer is rarest.

    `scene_counts` holds the questions per scene and `answer_counts` the answers per scene, both over all types; they
    are updated.
    """
    per_noun: Counter[tuple[str, str]] = Counter()
    per_answer: Counter[str] = Counter()
    chosen: list[Candidate] = []

    def cost(candidate: Candidate) -> float:
        nouns = sum(per_noun[noun, candidate.answer] for noun in candidate.nouns)
        answers = per_answer[candidate.answer] / max(1, len(chosen))
        # Few nouns occur three or four times: there the answers' own balance counts for more.
        weight = 1 if candidate.type == "count" else 4
        return (
            weight * nouns
            + 60 * answers
            + scene_counts[candidate.img_id]
            + 2 * answer_counts[candidate.img_id, candidate.answer]
        )

    while candidates and len(chosen) < wanted:
        spots = [rng.randrange(len(candidates)) for _ in range(n_candidates)]
        best = min(spots, key=lambda i: cost(candidates[i]))
        candidates[best], candidates[-1] = candidates[-1], candidates[best]
        candidate = candidates.pop()
        chosen.append(candidate)
        per_answer[candidate.answer] += 1
        scene_counts[candidate.img_id] += 1
        answer_counts[candidate.img_id, candidate.answer] += 1
        for noun in candidate.nouns:
            per_noun[noun, candidate.answer] += 1
    return chosen


def generate(
    scenes: Sequence[AnnotatedScene],
    names: Sequence[str],
    count: int,
    seed: int,
    tries: int = 24,
    n_candidates: int = 96,
    shares: Mapping[str, float] = SHARES,
) -> list[dict[str, Any]]:
    """Make about `count` balanced questions over the scenes; the same arguments give the same questions.

    Args:
        scenes: annotated scenes.
        names: all class names that may be asked for, present or not.
        count: number of questions; fewer come back when the scenes do not offer enough of a type.
        seed: decides wording, nouns and selection.
        tries: proposals per scene and type before selection.
        n_candidates: how many candidates each choice compares: more is better balanced, and slower.
        shares: share of each type.

    Returns:
        LXMERT items ``{img_id, sent, question_id, question_type, answer_type, label: {answer: 1.0}}`` with the further
        keys ``objects`` (annotation ids that decide the answer; empty where an absence does), ``words``
        (``[start, end)`` character spans of the deciding words in ``sent``) and ``foil`` (the natural other answer, or
        null).
    """
    scene_counts: Counter[str] = Counter()
    answer_counts: Counter[tuple[str, str]] = Counter()
    candidates: list[Candidate] = []
    for kind in sorted(shares, key=lambda k: shares[k]):  # scarce types choose their scenes first
        rng = random.Random(f"{seed} {kind}")
        pool = list(_proposals(scenes, kind, names, rng, tries))
        candidates += _select(pool, round(count * shares[kind]), rng, n_candidates, scene_counts, answer_counts)
    order = {scene.img_id: i for i, scene in enumerate(scenes)}
    candidates.sort(key=lambda d: order[d.img_id])  # stable: keeps types together within a scene
    return [_item(candidate, i) for i, candidate in enumerate(candidates)]


def _item(candidate: Candidate, number: int) -> dict[str, Any]:
    sentence, spans = fill(candidate.template, **dict(candidate.slots))
    if candidate.answer in ("yes", "no"):
        answer_type = "yes/no"
    else:
        answer_type = "number" if candidate.type == "count" else "other"
    return {
        "img_id": candidate.img_id,
        "sent": sentence,
        "question_id": number,
        "question_type": candidate.type,
        "answer_type": answer_type,
        "label": {candidate.answer: 1.0},
        "objects": list(candidate.objects),
        "words": spans,
        "foil": candidate.foil,
    }


def answer_of(question: dict[str, Any]) -> str:
    """Return the best answer of a question."""
    label: dict[str, float] = question["label"]
    return max(label, key=lambda answer: label[answer])


def blind_accuracy(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the accuracy of guessing without the image, and without the question.

    Args:
        train: questions that the guesser learns from.
        test: questions that it answers.

    Returns:
        Share of right answers by guesser. ``question_string``: the commonest training answer to the very same sentence
        (falling back on the type's); ``question_type``: to the type; ``no_question``: over all questions;
        ``image_oracle``: the commonest answer among the test questions of the same image, an upper bound on what the
        image alone can tell (seen answers).
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
