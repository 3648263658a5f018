"""Write a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hetexp.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    """Write under a temporary name, then rename; returns the path.

    Raises:
        DataError: if the disk refuses; what lay there before is intact.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}): free some space or choose another output folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
