"""What makes stored relevance stale: the computation, and nothing that is only written about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetexp.experiments.engine.fingerprint import source_digest

SOURCE = '''"""A module."""

SCALE = 2.0


def relevance(x: float) -> float:
    """Twice x."""
    return SCALE * x  # scaled
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# scaled", "# scaled by SCALE", True),
        ('"""Twice x."""', '"""x, scaled."""', True),
        ("\n\n\ndef", "\n\n\n# a heading\ndef", True),
        ("2.0", "2.5", False),
        ("SCALE * x", "SCALE + x", False),
    ],
)
def test_only_what_is_computed_counts(tmp_path: Path, old: str, new: str, same: bool) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(SOURCE)
    after.write_text(SOURCE.replace(old, new))
    assert before.read_text() != after.read_text()
    assert (source_digest(before) == source_digest(after)) is same
