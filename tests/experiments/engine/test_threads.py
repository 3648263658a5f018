"""A run's share of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetexp.experiments.engine.threads import available_cores, share_of_cores


@pytest.mark.parametrize(
    ("text", "want"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 8), ("?", 8)]
)
def test_a_container_s_limit_counts(text: str, want: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    (tmp_path / "cpu.max").write_text(text)
    assert available_cores(tmp_path / "cpu.max") == want
    assert available_cores(tmp_path / "absent") == 8


def test_processes_side_by_side_share() -> None:
    assert [share_of_cores(n, 8) for n in (1, 2, 3, 20)] == [8, 4, 2, 1]


@pytest.mark.parametrize(("own", "want"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_do_not_spin_unless_told_to(own: str | None, want: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if own is None else {"OMP_WAIT_POLICY": own}
    code = "import sys, os, hetexp.cli; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == want
