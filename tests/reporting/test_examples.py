"""The examples run as they are shown."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from hetexp.paths import asset

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_detections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(EXAMPLES / "detections.py"))["main"](out=str(tmp_path / "out.png"))
    assert list(found) == ["gae", "ours_abs"]
    assert torch.isfinite(found["ours_abs"]["image"]).all()
    assert "zebra" in found.labels
    assert capsys.readouterr().out.count("mask") == len(found.labels)
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(EXAMPLES / "answers.py"))["main"](out=str(tmp_path / "out.png"))
    assert found.words[1:5] == ["is", "there", "a", "zebra"]
    assert found.targets == ["logit(yes) − logit(no)"]
    relevance = found["ours_full"]["text"][0]
    assert relevance.min() < relevance.max()
    assert "is there a zebra? yes" in capsys.readouterr().out
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["detr", "lxmert"])
def test_embedded_checkpoints_are_there(name: str) -> None:
    assert Path(asset(name), "config.json").is_file()
