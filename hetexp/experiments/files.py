"""Names of the files a run leaves behind, and writing them whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

RESULTS = "results.csv"
SHARD_MANIFEST = "shard.json"


def atomic_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
