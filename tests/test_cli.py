"""The command line as a user types it: exit codes and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def hetexp(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *args], cwd=tmp_path, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("method=nope",), "ours_noised"),
        (("threshold.scale=0",), "threshold.scale=0 must be a positive number"),
        (("model.checkpoint=/nowhere",), "give a folder written by save_pretrained"),
        (("data=coco", "data.root=/nowhere"), "does not exist"),
        (("profile=paper", "model.checkpoint=/nowhere"), "data.root"),
        (("method=gae", "+method.correction=abs"), "method 'gae' has no parameter 'correction': it has normalise"),
        (("task=table",), "there is nothing to make a table of"),
        (("task=report",), "task=samples"),
    ],
)
def test_mistakes_end_with_a_message_and_an_exit_code(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    done = hetexp(tmp_path, "progress=false", *args)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not list(tmp_path.rglob("results.csv"))


def test_help_lists_the_groups(tmp_path: Path) -> None:
    done = hetexp(tmp_path, "--help")
    assert done.returncode == 0
    for group in ("model", "method", "correction", "noise_link", "threshold", "target", "profile"):
        assert group in done.stdout
