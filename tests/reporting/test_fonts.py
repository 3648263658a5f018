"""Words in scripts that no installed font has: said in one line instead of drawn as boxes without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from hetexp.reporting.figures.style import save, styled, unprintable

TAMIL = "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd"  # in no font that figures are set in


def test_signs_that_no_font_has() -> None:
    assert unprintable("zebra, zèbre, зебра − ≥ →") == ""
    assert set(unprintable(f"zebra {TAMIL}")) == set(TAMIL)


def test_saving_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for text, lines in (("zebra", 0), (TAMIL, 1)):
        caplog.clear()
        with styled():
            figure = plt.figure(figsize=(1, 1))
            figure.text(0.5, 0.5, text)
        assert all(path.stat().st_size > 100 for path in save(figure, tmp_path / "figure"))
        assert len([m for m in caplog.messages if "boxes stand for them: install" in m]) == lines
