"""The page of figures: every reference figure, each with the command that draws it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^\[!\[[^\]]+\]\(figures/(\w+)\.png\)\S* [^\n]+\n\n    make (\w+)$", re.MULTILINE)


def entries() -> dict[str, str]:
    """Name of a figure -> make's target below it."""
    return dict(ENTRY.findall((ROOT / "docs" / "figures.md").read_text(encoding="utf-8")))


def test_every_reference_figure_is_shown() -> None:
    drawn = {path.stem for path in (ROOT / "outputs" / "reference" / "figures").glob("*.png")}
    assert set(entries()) == drawn


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(("figure", "target"), entries().items())
def test_its_command_draws_it(figure: str, target: str) -> None:
    command = ["make", "--dry-run", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    plain, _, contrast = figure.partition("_") if figure.endswith(("_shared", "_log")) else (figure, "", "")
    assert re.search(rf"figures=\[[^]]*\b{plain}\b.*{contrast and f'figure.contrast={contrast}'}", done.stdout)
