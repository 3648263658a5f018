"""The zoo, and with it the benchmark against earlier commits, leaves no model out."""

from __future__ import annotations

from model_zoo import ZOO

from hetexp.models.registry import ARCHITECTURES


def test_every_architecture_is_in_the_zoo() -> None:
    assert set(ZOO) == set(ARCHITECTURES)
