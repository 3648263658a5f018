from __future__ import annotations

import pytest

from hetexp.attribution.registry import METHODS, MethodRecord
from hetexp.reporting.names import PAPER_METHODS, in_order, is_signed, method_name


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("ours_abs", "Ours (abs)"),
        ("ours_abs(noise_link=row)", "Ours (abs), noise_link=row"),
        ("ours_pos(correction=abs,noise_link=total)", "Ours (pos), correction=abs, noise_link=total"),
        ("gae(sizes=(1, 2))", "GAE, sizes=(1, 2)"),
        ("my_method", "my_method"),
        ("my_method(power=2)", "my_method(power=2)"),
        ("odd(", "odd("),
    ],
)
def test_labels(method: str, label: str) -> None:
    assert method_name(method) == label


def test_order() -> None:
    variants = ["ours_pos(noise_link=total)", "gae(a=1)", "my_method", "a_method(power=2)"]
    found = in_order([*variants, "random(seed=1)", *METHODS])
    assert found[: len(METHODS) - 1] == [m for m in METHODS if m != "random"]
    rest = ["gae(a=1)", "ours_pos(noise_link=total)", "a_method(power=2)", "my_method", "random", "random(seed=1)"]
    assert found[len(METHODS) - 1 :] == rest
    assert tuple(in_order(PAPER_METHODS)) == PAPER_METHODS


def test_a_method_of_ones_own_is_printed_from_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    record = MethodRecord("own", "My method", "somewhere:Own", "mine", signed=True)
    monkeypatch.setitem(METHODS, "own", record)
    assert method_name("own(power=2)") == "My method, power=2"
    assert is_signed("own(power=2)")
    assert not is_signed("gae")
    assert not is_signed("unknown")
    assert in_order(["random", "own", "gae"]) == ["gae", "own", "random"]
