"""Question files, the reference's draw, and the two scores of VQA."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hetexp.data.vqa import (
    Question,
    draw,
    from_vqa_v2,
    normalise_answer,
    official_accuracy,
    outside_vocabulary,
    read_answers,
    read_questions,
    soft_label,
    write_questions,
)
from hetexp.errors import DataError

Official = tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]  # folder, questions, annotations

ITEM: dict[str, Any] = {
    "question_id": 7,
    "img_id": "COCO_val2014_000000000042",
    "sent": "is it a zebra?",
    "label": {"yes": 1, "no": 0.3},
}


def saved(tmp_path: Path, content: Any, name: str = "valid.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def numbered(n: int, first: int = 0) -> list[dict[str, Any]]:
    return [ITEM | {"question_id": i} for i in range(first, first + n)]


def test_items_are_read_with_their_extra_keys(tmp_path: Path) -> None:
    item = ITEM | {"question_type": "is it", "answer_type": "yes/no", "words": [[0, 2]], "objects": [1, 2]}
    (question,) = read_questions(saved(tmp_path, [item]))
    assert question == Question(
        7,
        ITEM["img_id"],
        "is it a zebra?",
        {"yes": 1.0, "no": 0.3},
        "is it",
        "yes/no",
        {"words": [[0, 2]], "objects": [1, 2]},
    )
    assert question.record() == item
    assert question.score("yes") == 1.0
    assert question.score("maybe") == 0.0


def test_several_files_join_in_order_and_write_reads_back(tmp_path: Path) -> None:
    files = [saved(tmp_path, numbered(2), "a.json"), saved(tmp_path, numbered(3, 2), "b.json")]
    questions = read_questions(files)
    assert [q.question_id for q in questions] == [0, 1, 2, 3, 4]
    write_questions(questions, tmp_path / "out.json")
    assert read_questions(tmp_path / "out.json") == questions
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "out.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not valid JSON"),
        ({"questions": []}, "holds a dict, expected a list"),
        ([], "no questions"),
        ([ITEM, {"sent": "why?"}], r"item 1 lacks question_id, img_id, label"),
        ([ITEM | {"sent": "  "}], r"item 0 \(question 7\) has the empty question"),
        ([ITEM | {"sent": None}], "empty question"),
        ([ITEM | {"label": ["yes"]}], "expected {answer: soft score"),
        ([ITEM | {"label": {"yes": 1.5}}], r"soft score in \[0, 1\]"),
        ([ITEM, ITEM], "occur twice in .*first 7"),
    ],
)
def test_damaged_question_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_questions(path)
    assert "valid.json" in str(caught.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_questions(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_answers(tmp_path)


def test_answers_and_what_they_do_not_know(tmp_path: Path) -> None:
    answers = read_answers(saved(tmp_path, ["yes", "no", "net"]))
    assert answers == ["yes", "no", "net"]
    questions = [
        Question(1, "a", "x", {"net": 1.0}),
        Question(2, "a", "x", {"kite": 1.0, "yes": 0.0}),
        Question(3, "a", "x", {}),
    ]
    assert outside_vocabulary(questions, answers) == 2
    for wrong in (["yes", "yes"], ["yes", 3], []):
        with pytest.raises(DataError, match="distinct answers"):
            read_answers(saved(tmp_path, wrong))


def test_draw_is_the_references() -> None:
    questions = [Question(i, "a", "x", {}) for i in range(100)]
    random.seed(1234)
    order = list(range(100))
    random.shuffle(order)
    assert [q.question_id for q in draw(questions, 30)] == order[:30]
    assert [q.question_id for q in draw(questions, 500)] == order
    assert draw(questions, None) == questions
    assert draw(questions, 30, seed=1) != draw(questions, 30)
    with pytest.raises(DataError, match="at least 1, got 0"):
        draw(questions, 0)


def test_soft_scores() -> None:
    given = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"]
    assert soft_label(given) == {"a": 1.0, "b": 0.9, "c": 0.6, "d": 0.3}
    assert soft_label(["a"] * 10) == {"a": 1.0}


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)]
)
def test_official_accuracy_leaves_one_annotator_out(matches: int, accuracy: float) -> None:
    answers = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert official_accuracy("cat", answers) == pytest.approx(accuracy)


def test_official_accuracy_normalises_unless_all_agree() -> None:
    assert official_accuracy("The cat!", ["a cat"] * 5 + ["dog"] * 5) == 1.0
    assert official_accuracy("2", ["two"] * 5 + ["3"] * 5) == 1.0
    assert official_accuracy("The cat", ["a cat"] * 10) == 0.0
    with pytest.raises(DataError, match="got none"):
        official_accuracy("cat", [])


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The Cat, and a dog.", "cat and dog"),
        ("none", "0"),
        ("3.5 miles.", "3.5 miles"),
        ("1,000", "1000"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("dont", "don't"),
        ("\tYes\n", "yes"),
        ("a", ""),
    ],
)
def test_normalisation(raw: str, normal: str) -> None:
    assert normalise_answer(raw) == normal


@pytest.fixture
def official(tmp_path: Path) -> Official:
    asked = [
        {"question_id": 420, "image_id": 42, "question": "Is it?"},
        {"question_id": 1, "image_id": 9, "question": "Why?"},
    ]
    annotated = [
        {
            "question_id": q["question_id"],
            "image_id": q["image_id"],
            "question_type": "is it",
            "answer_type": "yes/no",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes", "answer_id": i} for i in range(7)]
            + [{"answer": "no", "answer_id": i} for i in range(7, 10)],
        }
        for q in reversed(asked)
    ]
    return tmp_path, asked, annotated


def build(official: Official, asked: Any, annotated: Any) -> list[Question]:
    root = official[0]
    return from_vqa_v2(saved(root, asked, "q.json"), saved(root, annotated, "a.json"))


def test_valid_json_from_the_official_files(official: Official) -> None:
    _, asked, annotated = official
    first, second = build(official, {"questions": asked}, {"annotations": annotated})
    assert first.img_id == "COCO_val2014_000000000042"
    assert first.label == {"yes": 1.0, "no": 0.9}
    assert (first.sent, first.question_type, first.answer_type) == ("Is it?", "is it", "yes/no")
    assert official_accuracy("no", first.extra["answers"]) == pytest.approx(0.9)
    assert second.question_id == 1
    write_questions([first, second], official[0] / "valid.json")
    assert read_questions(official[0] / "valid.json") == [first, second]


def test_official_files_that_do_not_fit(official: Official) -> None:
    _, asked, annotated = official
    with pytest.raises(DataError, match=r"no annotation for 1 question\(s\).*first 420"):
        build(official, {"questions": asked}, {"annotations": annotated[:1]})
    with pytest.raises(DataError, match="lacks the list 'questions'"):
        build(official, {"data": asked}, {"annotations": annotated})
    with pytest.raises(DataError, match="VQA v2's format"):
        build(official, {"questions": asked}, {"annotations": [{"question_id": 420}, {"question_id": 1}]})
