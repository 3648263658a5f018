"""Items of LXMERT-form question files, checked before a model or a score meets them."""

from __future__ import annotations

from typing import Any

from hetexp.data.problems import is_text, short

REQUIRED = ("question_id", "img_id", "sent", "label")


def problems_of(items: list[Any]) -> list[str]:
    """Everything that is wrong with the items of a file, in their order."""
    return [f"item {number}{said}" for number, item in enumerate(items) if (said := _problem(item)) is not None]


def _problem(item: Any) -> str | None:
    missing = [key for key in REQUIRED if not isinstance(item, dict) or key not in item]
    if missing:
        return f" lacks {', '.join(missing)}; LXMERT's form has {', '.join(REQUIRED)}"
    for check in (_bad_names, _bad_question, _bad_label, _bad_words, _bad_lists):
        said = check(item)
        if said is not None:
            return f" (question {short(item['question_id'])}) has {said}"
    return None


def _is_name(value: Any) -> bool:
    return type(value) is int or (is_text(value) and value != "")


def _bad_names(item: dict[str, Any]) -> str | None:
    for key in ("question_id", "img_id"):
        if not _is_name(item[key]):
            return f"{key} {short(item[key])}, expected a number or a text"
    for key in ("question_type", "answer_type"):
        if item.get(key) is not None and not is_text(item[key]):
            return f"{key} {short(item[key])}, expected a text: correct it or leave it out"
    return None


def _bad_question(item: dict[str, Any]) -> str | None:
    if not isinstance(item["sent"], str) or not item["sent"].strip():
        return f"the empty question {short(item['sent'])}: remove it"
    return None if is_text(item["sent"]) else f"a question that is no Unicode text, {short(item['sent'])}: correct it"


def _bad_label(item: dict[str, Any]) -> str | None:
    label = item["label"]
    if isinstance(label, dict) and all(
        is_text(answer) and type(score) in (int, float) and 0 <= score <= 1 for answer, score in label.items()
    ):
        return None
    return f"label {short(label)}, expected {{answer: soft score in [0, 1]}}"


def _bad_words(item: dict[str, Any]) -> str | None:
    spans, end = item.get("words", []), len(item["sent"])
    if not isinstance(spans, list):
        return f"words {short(spans)}, expected a list of spans [start, end]"
    for span in spans:
        whole = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
        if not whole or not 0 <= span[0] < span[1] <= end:
            return f"the span {short(span)} among its words, expected [start, end] within its {end} characters"
    return None


def _bad_lists(item: dict[str, Any]) -> str | None:
    objects, answers = item.get("objects", []), item.get("answers", [])
    if not isinstance(objects, list) or not all(type(number) is int for number in objects):
        return f"objects {short(objects)}, expected a list of annotation ids"
    if not isinstance(answers, list) or not all(is_text(answer) for answer in answers):
        return f"answers {short(answers)}, expected the list of the annotators' answers"
    return None
