"""A few damaged inputs of every kind, among them those that once found something; `make fuzz` tries thousands."""

from __future__ import annotations

from random import Random

import pytest
from fuzz import KINDS, Outcome, Subject, clean_number, tried

# Kind -> numbers of its seeds. Configurations: 18 asks for more threads than can be counted.
SEEDS = {
    "annotation files": range(6),
    "question files": range(6),
    "images": range(6),
    "configurations": (*range(5), 18),
}


@pytest.fixture(scope="module", params=SEEDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Subject]:
    return request.param, KINDS[request.param][0](tmp_path_factory.mktemp("fuzz"))


def test_damage_is_never_silent(kind: tuple[str, Subject]) -> None:
    name, subject = kind
    clean = clean_number(subject)
    for number in SEEDS[name]:
        case = tried(subject, clean, f"{name} 0 {number}")
        assert case.outcome not in (Outcome.silent, Outcome.traceback), f"{case.seed}: {case.said}"


def test_damage_is_the_same_for_the_same_seed(kind: tuple[str, Subject]) -> None:
    name, subject = kind
    assert subject.damage(Random(f"{name} 0 1")) == subject.damage(Random(f"{name} 0 1"))
