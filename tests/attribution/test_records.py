"""Method records: what they build, what they refuse, and how changed parameters are named."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from hetexp.attribution.gae import Gae
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.attribution.registry import METHODS, MethodRecord, get_method, register_method, variant_of
from hetexp.errors import ConfigError


@pytest.mark.parametrize("name", METHODS)
def test_every_record_builds(name: str) -> None:
    record = get_method(name)
    assert record.name == name
    method = record.build()
    assert type(method) is record.implementation_class
    assert set(record.parameters) <= set(record.accepted())
    for key, value in record.accepted().items():
        assert getattr(method, key) == value
    assert isinstance(method.corrections, tuple)
    assert isinstance(method.features, tuple)
    assert record.build(record.accepted()) == method


def test_records_are_told_apart() -> None:
    for attribute in ("label", "colour", "marker"):
        assert len({getattr(record, attribute) for record in METHODS.values()}) == len(METHODS), attribute
    assert len({(r.implementation, *sorted(r.accepted().items())) for r in METHODS.values()}) == len(METHODS)
    assert all(record.reference for record in METHODS.values())


def test_parameters_are_changed() -> None:
    assert get_method("ours_abs").build() == Ours("abs")
    assert get_method("ours_abs").build({"noise_link": "total"}) == Ours("abs", "total")
    assert get_method("odam").build({"feature": "encoder"}) == Odam("encoder")
    assert get_method("gae").build({"normalise": False}) == Gae(normalise=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ours_abs", {"sign": 1}, r"method 'ours_abs' has no parameter 'sign': it has correction, noise_link"),
        ("gae", {"correction": "abs", "a": 1}, r"method 'gae' has no parameter 'a', 'correction': it has normalise"),
        ("rollout", {"feature": "x"}, r"method 'rollout' has no parameter 'feature': it has none"),
        ("ours_pos", {"correction": "relu"}, r"unknown correction 'relu': choose one of pos, full, abs"),
    ],
)
def test_unknown_parameters_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method(name).build(changes)


def test_unknown_methods_are_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lime'. Available methods: gae, odam, ours_abs, .*random$"):
        get_method("lime")


@pytest.mark.parametrize(
    ("name", "changes", "nearest", "printed"),
    [
        ("ours_pos", {}, "ours_pos", "ours_pos"),
        ("ours_pos", {"correction": "abs"}, "ours_abs", "ours_abs"),
        ("ours_pos", {"noise_link": "row"}, "ours_noised", "ours_noised"),
        ("ours_noised", {"noise_link": "none"}, "ours_pos", "ours_pos"),
        ("ours_noised", {"correction": "abs", "noise_link": "none"}, "ours_abs", "ours_abs"),
        ("ours_abs", {"noise_link": "row"}, "ours_abs", "ours_abs(noise_link=row)"),
        ("ours_pos", {"correction": "abs", "noise_link": "total"}, "ours_abs", "ours_abs(noise_link=total)"),
        ("odam", {"feature": "encoder"}, "odam", "odam(feature=encoder)"),
        ("odam", {"feature": "default"}, "odam", "odam"),
        ("gae", {"normalise": False}, "gae", "gae(normalise=False)"),
    ],
)
def test_names_of_variants(name: str, changes: dict[str, Any], nearest: str, printed: str) -> None:
    assert variant_of(get_method(name), changes) == (get_method(nearest), printed)


def test_a_variant_of_two_changes_is_named_the_same_from_every_record() -> None:
    """However a method's parameters were reached, results of it bear one name."""
    wanted = {"correction": "abs", "noise_link": "row"}
    names = {variant_of(record, wanted)[1] for name, record in METHODS.items() if name.startswith("ours_")}
    assert names == {"ours_abs(noise_link=row)"}


def test_register_a_method() -> None:
    record = MethodRecord("mine", "Mine", "hetexp.attribution.gae:Gae", "here", {"normalise": False})
    try:
        register_method(record)
        register_method(record)  # again, as a notebook's cell does
        assert get_method("mine").build() == Gae(normalise=False)
        assert variant_of(get_method("gae"), {"normalise": False})[1] == "mine"
        with pytest.raises(ConfigError, match="method 'mine' exists already: choose another name"):
            register_method(MethodRecord("mine", "Other", "hetexp.attribution.gae:Gae", "there"))
    finally:
        METHODS.pop("mine")


def test_records_come_without_torch() -> None:
    """Tables and figures are made where no model is."""
    code = "import sys, hetexp.attribution.registry as r; assert r.METHODS; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
