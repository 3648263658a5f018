"""Ctrl-C in the middle of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("options", [[], ["workers=2"]])
def test_a_run_is_stopped_and_goes_on(toy_scenes: Path, toy_model: Path, tmp_path: Path, options: list[str]) -> None:
    """Ctrl-C reaches every process of a run, whatever it is doing; only one of them speaks."""
    command = [sys.executable, str(ROOT / "run.py"), "data=coco", f"data.root={toy_scenes}", "method=gae", *options]
    command += [f"model.checkpoint={toy_model}", "model.score_threshold=0.2", "chunk_size=2", "progress=false"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list(tmp_path.rglob("gae-*/digests.json")) and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130, said
    (line,) = said.strip().splitlines()
    assert "of 4 chunks are in outputs/store/detr-coco-" in line
    assert line.endswith("the same command continues there")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
