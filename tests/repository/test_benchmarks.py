"""The benchmark against earlier commits leaves no model out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hetexp.models.registry import ARCHITECTURES

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_architecture_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(sys, "path", sys.path)
    from model_zoo import ZOO

    assert set(ZOO) == set(ARCHITECTURES)
