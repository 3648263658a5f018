"""What was brought below a data root: one small JSON per finished source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetexp.data.download.sources import Source
from hetexp.files import atomic_write

WORK = ".downloads"  # below the root: parts, and one receipt per finished source


def _path(root: Path, source: Source) -> Path:
    return root / WORK / f"{source.name}.json"


def read_receipt(root: Path, source: Source) -> dict[str, Any] | None:
    """What was recorded when the source was finished: url, digest and {file: size}; None if it was not."""
    try:
        receipt = json.loads(_path(root, source).read_bytes())
        return receipt if isinstance(receipt["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_receipt(root: Path, source: Source, digest: str, files: Mapping[str, int], **more: Any) -> None:
    """Record that a source is finished.

    Args:
        root: the data root.
        source: what was brought.
        digest: ``algorithm:hex`` of the fetched file.
        files: size in bytes of every file it left, by its path relative to `root`.
        more: further keys.

    Raises:
        DataError: if the disk refuses.
    """
    content = {"source": source.name, "url": source.url, "digest": digest, "files": dict(files), **more}
    atomic_write(_path(root, source), json.dumps(content, indent=1) + "\n")


def missing_files(root: Path, files: Mapping[str, int]) -> list[str]:
    """Files that are not there or have another size than recorded."""
    return [path for path, size in files.items() if not (root / path).is_file() or (root / path).stat().st_size != size]
