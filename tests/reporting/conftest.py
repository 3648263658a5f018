"""An outputs folder with finished runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_helpers import finished_runs


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An outputs folder with one run of each experiment."""
    return finished_runs(tmp_path)
