"""Words shaded by relevance: colours, what is grey, the picture and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt

from hetexp.reporting.figures.explanation import draw_explanation
from hetexp.reporting.figures.maps import readable
from hetexp.reporting.figures.text import GREY, printed, shades
from hetexp.reporting.samples import StoredExplanation
from hetexp.reporting.words import write_words

TOKENS = ["<s>", "▁red", "dog$", "<b>", "</s>"]


def stored(rows: int = 2, **more: np.ndarray) -> StoredExplanation:
    rng = np.random.default_rng(0)
    names = ["blue", "cat", "sat"][:rows]
    info: dict[str, Any] = {
        "kind": "text",
        "methods": ["ours_abs", "ours_full"],
        "explained": names,
        "targets": [f"logit({name})" for name in names],
        "token_texts": {"text": TOKENS, "target": ["<s>", "blue", "cat"]},
        "without_relevance": {"text": [[0, 4]] * rows, "target": [[0, 1, 2], [0, 1, 2], [0, 2]][:rows]},
        "written": "target",
        "seconds": 1.5,
        "provenance": {"model": "bart"},
    }
    relevance = {
        f"{method}/{source}": rng.random((rows, len(tokens)))
        for method in info["methods"]
        for source, tokens in info["token_texts"].items()
    }
    relevance["ours_full/text"] = relevance["ours_full/text"] - 0.5
    return StoredExplanation(None, info, {**relevance, **more})


def contrast(back: tuple[float, float, float], fore: str) -> float:
    """Contrast ratio of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in back]
    luminance = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return (luminance + 0.05) / 0.05 if fore == "black" else 1.05 / (luminance + 0.05)


@pytest.mark.parametrize("signed", [False, True])
def test_shades_leave_special_tokens_out(signed: bool) -> None:
    values = np.array([100.0, -1.0 if signed else 0.0, 0.25, 1.0, -70.0])
    found = shades(values, {0, 4}, signed)
    assert found[0] == found[4] == GREY
    assert found == shades(values * [9, 1, 1, 1, 3], {0, 4}, signed)  # no scale sees them
    assert len(set(found[1:4])) == 3
    assert all(contrast(colour, readable(colour)) >= 4.5 for colour in found)
    if signed:  # red raises, blue lowers
        assert found[3][0] > found[3][2]
        assert found[1][2] > found[1][0]


def test_relevance_that_is_not_finite_has_no_colour() -> None:
    assert shades(np.array([np.nan, 1.0, 2.0]), set(), False) == [GREY] * 3


def test_tokens_as_they_are_printed() -> None:
    assert [printed(t) for t in ("▁red", "Ġred", "red</w>", "##ed", "▁", "a$b")] == [
        *("red", "red", "red", "ed", "␣"),
        r"a\$b",
    ]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_picture_names_every_token(rows: int) -> None:
    figure = draw_explanation(stored(rows))
    figure.canvas.draw()
    shown = [t.get_text() for ax in figure.axes for t in [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]]
    for token in (*TOKENS, *(["blue", "cat", "sat"] if rows > 1 else [])):
        assert printed(token) in shown
    size = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= -1
        assert box.x1 <= size[0]
    plt.close(figure)


def test_sound_and_pictures_are_drawn_too() -> None:
    rng = np.random.default_rng(1)
    more: dict[str, Any] = {f"{m}/audio": rng.random((2, 30)) for m in ("ours_abs", "ours_full")}
    more |= {f"{m}/image": rng.random((2, 4, 4)) for m in ("ours_abs", "ours_full")}
    plain, whole = draw_explanation(stored()), draw_explanation(stored(spectrogram=rng.random((8, 60)), **more))
    assert len(whole.axes) == len(plain.axes) + 1 + 2 + 2 * 3  # spectrogram, strips, input and maps of every row
    assert whole.get_figheight() > plain.get_figheight()
    plt.close("all")


def test_the_page(tmp_path: Path) -> None:
    page = write_words(stored(), tmp_path / "words.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.split("<body>")[1].replace('<b title="', "")
    assert page.count('title="no relevance"') == 2 * 2 * (2 + 3)
    assert "Ours (full)" in page
    assert "http" not in page
