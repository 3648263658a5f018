"""Targets: their values and gradients, the words for them, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hetexp.errors import ConfigError, InputError
from hetexp.models.trace import reads_box
from hetexp.targets import (
    NAMES,
    SIDES,
    BoxSide,
    Difference,
    Logit,
    Ratio,
    RelativeDifference,
    RunnerUp,
    automatic,
    describe,
    index_of,
    resolve,
)

LOGITS = torch.tensor([1.0, -2.0, 4.0, 0.5], dtype=torch.float64)
BOX = torch.tensor([0.5, 0.375, 0.25, 0.5], dtype=torch.float64)
LABELS = {0: "cat", 1: "dog", 2: "zebra", 3: "N/A"}


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (Logit(), 4.0),
        (Logit(1), -2.0),
        (Difference(0, 1), 3.0),
        (Ratio(2, 1), -2.0),
        (RelativeDifference(2, 3), 7.0),
        (RunnerUp("difference"), 3.0),
        (RunnerUp("ratio"), 4.0),
        (RunnerUp("relative_difference"), 3.0),
    ],
)
def test_values(target: Any, value: float) -> None:
    assert float(target(LOGITS)) == value
    assert not reads_box(target)


def test_ratio_and_relative_difference_share_their_gradient() -> None:
    x = LOGITS.clone().requires_grad_()
    (a,) = torch.autograd.grad(Ratio(0, 2)(x), x)
    (b,) = torch.autograd.grad(RelativeDifference(0, 2)(x), x)
    assert torch.allclose(a, b, rtol=0, atol=1e-15)
    assert a.tolist() == pytest.approx([1 / 4, 0, -1 / 16, 0])


@pytest.mark.parametrize(
    ("side", "value", "gradient"),
    [
        ("left", 0.375, [1, 0, -0.5, 0]),
        ("top", 0.125, [0, 1, 0, -0.5]),
        ("right", 0.625, [1, 0, 0.5, 0]),
        ("bottom", 0.625, [0, 1, 0, 0.5]),
    ],
)
def test_sides_of_a_box(side: str, value: float, gradient: list[float]) -> None:
    box = BOX.clone().requires_grad_()
    y = BoxSide(side, query=3)(box)
    assert y.item() == value
    assert torch.autograd.grad(y, box)[0].tolist() == gradient
    assert reads_box(BoxSide(side))
    assert describe(BoxSide(side), LOGITS, LABELS) == f"{side} side of the box"


def test_sides_there_are() -> None:
    assert SIDES == ("left", "top", "right", "bottom")
    with pytest.raises(ConfigError, match="side 'up' of a box does not exist: choose one of left, top, right, bottom"):
        BoxSide("up")


@pytest.mark.parametrize("target", [Logit(4), Logit(-1), Difference(0, 9), Ratio(9, 0), RelativeDifference(0, 4)])
def test_classes_that_do_not_exist(target: Any) -> None:
    with pytest.raises(InputError, match="does not exist: expected 0 to 3"):
        target(LOGITS)


@pytest.mark.parametrize(
    ("named", "numbered"),
    [
        (Logit("zebra", 5), Logit(2, 5)),
        (Difference("cat", 1, 5), Difference(0, 1, 5)),
        (Ratio(0, "dog"), Ratio(0, 1)),
        (RelativeDifference("zebra", "dog"), RelativeDifference(2, 1)),
        (RunnerUp("ratio", 2), RunnerUp("ratio", 2)),
        (BoxSide("left", 2), BoxSide("left", 2)),
        (Logit(), Logit()),
    ],
)
def test_names_of_classes(named: Any, numbered: Any) -> None:
    assert resolve(named, LABELS) == numbered
    assert resolve(numbered, {}) is numbered


def test_names_follow_the_labels_own_indices() -> None:
    assert resolve(Logit("b"), {7: "a", 11: "b"}) == Logit(11)


def test_names_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match="unknown class 'zebras'; near it: zebra"):
        resolve(Logit("zebras"), LABELS)
    with pytest.raises(ConfigError, match="unknown class 'gnu'; known are, among others: cat, dog, zebra, N/A"):
        resolve(Difference(0, "gnu"), LABELS)
    with pytest.raises(ConfigError, match="names 'cat', 'dog', but the model's classes have no names"):
        resolve(Difference("cat", "dog"), {})
    with pytest.raises(ConfigError, match="unknown answer 'gnu'"):
        index_of("gnu", LABELS.values(), "answer")
    with pytest.raises(InputError, match=r"names the class 'cat': call hetexp.targets.resolve\(target, labels\) first"):
        Logit("cat")(LOGITS)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Logit(), "logit(zebra)"),
        (Logit(0), "logit(cat)"),
        (Logit(9), "logit(9)"),
        (Difference(2, 1), "logit(zebra) − logit(dog)"),
        (Ratio(2, 1), "logit(zebra) / logit(dog)"),
        (RelativeDifference(2, 1), "(logit(zebra) − logit(dog)) / logit(dog)"),
        (RunnerUp("difference"), "logit(zebra) − logit(cat)"),
    ],
)
def test_words_for_targets(target: Any, words: str) -> None:
    assert describe(target, LOGITS, LABELS) == words


def test_kinds_of_runner_up() -> None:
    with pytest.raises(ConfigError, match="unknown kind 'margin' of a target: choose one of difference, ratio, relat"):
        RunnerUp("margin")


def test_automatic() -> None:
    assert automatic("logit") == Logit()
    assert automatic("ratio") == RunnerUp("ratio")
    assert automatic("box") == BoxSide("left")
    assert automatic("box", "bottom") == BoxSide("bottom")
    for name in NAMES:
        assert callable(automatic(name))
    with pytest.raises(
        ConfigError,
        match=r"unknown target 'margin'.*logit, probability, second, difference, ratio, relative_difference",
    ):
        automatic("margin")
