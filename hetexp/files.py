"""Whole files and folders, and hashes of content: the one place that writes, renames and hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hetexp.errors import DataError

# Of a PNG: half the time of the library's own level, for files that are some percent larger.
PNG_COMPRESSION = 4

WRITING = ".writing-"  # start of the names of what is half-written


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; what was written there takes its place when the block ends well.

    Whatever ends the block early, what lay at `path` is intact and the temporary file is gone.

    Raises:
        OSError: as writing or renaming does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{WRITING}{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Hand out a new empty folder beside `path`, which takes its place when the block ends well.

    Args:
        replace: what lies at `path` makes way; otherwise it stays, and the new folder is dropped (another process was
            faster, and wrote the same).

    Raises:
        OSError: as writing or renaming does; what lay at `path` is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{WRITING}{uuid.uuid4().hex}"  # with the umask's mode, so that others may read it
    old = temporary.with_name(f"{temporary.name}-old")
    try:
        temporary.mkdir()
        yield temporary
        if replace and path.exists():
            path.rename(old)
        try:
            if not path.exists():
                temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        for left in (temporary, old):
            if left.is_file():
                left.unlink()
            shutil.rmtree(left, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, and return its path.

    Raises:
        DataError: if the disk refuses; what lay there before is intact.
    """
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}): free some space or choose another output folder") from error
    return path


def sync(path: Path) -> None:
    """Make sure that a file's bytes have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
