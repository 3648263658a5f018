"""Batches, and items loaded while others are worked on."""

import threading
from collections.abc import Iterator

import pytest

from hetexp.experiments.engine.chunks import batches, prefetch


def test_batches_of_anything() -> None:
    assert list(batches(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for n, event in enumerate(made):
            event.set()
            yield n

    seen = []
    for n in prefetch(items()):
        assert all(event.wait(10) for event in made[: n + 2])
        seen.append(n)
    assert seen == [0, 1, 2]


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    following = prefetch(items())
    assert next(following) == 1
    with pytest.raises(ValueError, match="broken"):
        next(following)


def test_nobody_makes_more_than_one_in_advance() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    following = prefetch(items())
    assert next(following) == 0
    following.close()  # type: ignore[attr-defined]  # waits for the one that was begun
    assert made in ([0], [0, 1])
