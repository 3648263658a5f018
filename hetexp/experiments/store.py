"""The store between attribution and evaluation: chunks of relevance and rows, written whole or not at all.

    store/<run key>/<chunk>/<unit>/    tensors.safetensors, <table>.parquet ..., digests.json

The run key hashes what every chunk depends on (checkpoint, target, code of the attribution); a chunk's name
hashes the bytes of its items; a unit's name hashes its own settings (a method). So a unit that exists is the one
that would be computed, a stale one is simply never looked up, and a damaged one is found by its digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetexp.errors import DataError
from hetexp.experiments.files import atomic_text

log = logging.getLogger("hetexp")

DIGESTS = "digests.json"
WRITING = ".writing-"  # start of the names of half-written units
ABANDONED = 3600.0  # seconds after which a half-written unit's process must have died
TENSORS = "tensors.safetensors"


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Unit:
    """What one unit holds."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class Store:
    """Units below one folder.

    Args:
        root: the store's folder; made when first written to.
        fingerprint: everything that all units of this run depend on.
        label: readable start of the run key.
    """

    def __init__(self, root: str | Path, fingerprint: Mapping[str, Any], label: str) -> None:
        self.fingerprint = dict(fingerprint)
        self.key = f"{label}-{content_hash(self.fingerprint)[:16]}"
        self.folder = Path(root) / self.key
        self.recomputed = 0  # damaged units met and thrown away

    def unit(self, chunk: str, name: str, settings: Any = None) -> Path:
        """Folder of a unit; `settings` is what it depends on beyond the chunk."""
        suffix = "" if settings is None else f"-{content_hash(settings)[:12]}"
        return self.folder / chunk / f"{name}{suffix}"

    def has(self, unit: Path) -> bool:
        """Whether a unit is there and undamaged; a damaged one is removed, so that it is computed again."""
        if not unit.is_dir():
            return False
        try:
            digests = json.loads((unit / DIGESTS).read_text(encoding="utf-8"))
            sound = bool(digests) and all(file_hash(unit / name) == value for name, value in digests.items())
        except (OSError, ValueError, AttributeError):
            sound = False
        if not sound:
            log.warning("stored unit %s is damaged and will be computed again", unit)
            self.recomputed += 1
            shutil.rmtree(unit, ignore_errors=True)
        return sound

    def read(self, unit: Path) -> Unit:
        """Load a unit.

        Raises:
            DataError: if it is not there or cannot be read.
        """
        try:
            names = list(json.loads((unit / DIGESTS).read_text(encoding="utf-8")))
            tensors = load_file(unit / TENSORS) if TENSORS in names else {}
            tables = {Path(n).stem: pd.read_parquet(unit / n) for n in names if n.endswith(".parquet")}
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"stored unit {unit} cannot be read ({error}): run the same command again") from error
        return Unit(tensors, tables)

    def write(
        self, unit: Path, tensors: Mapping[str, Tensor] | None = None, tables: Mapping[str, pd.DataFrame] | None = None
    ) -> None:
        """Write a unit under a temporary name and rename it into place.

        Raises:
            DataError: if the disk refuses; nothing half-written stays, what was stored before is intact.
        """
        temporary: Path | None = None
        try:
            unit.parent.mkdir(parents=True, exist_ok=True)
            self._describe()
            self._clear(unit.parent)
            temporary = unit.parent / f"{WRITING}{uuid.uuid4().hex}"  # mkdtemp would shut other users out of shards
            temporary.mkdir()
            if tensors is not None:
                save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
            for name, table in (tables or {}).items():
                table.to_parquet(temporary / f"{name}.parquet", index=False)
            digests = {p.name: file_hash(p) for p in sorted(temporary.iterdir())}
            (temporary / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            mode = (temporary / DIGESTS).stat().st_mode  # what the user's umask allows; safetensors writes 0600
            for path in temporary.iterdir():
                path.chmod(mode)
                _sync(path)
            if not unit.exists():  # another process may have been faster
                temporary.rename(unit)
        except (OSError, SafetensorError) as error:
            if unit.is_dir():
                return  # lost a race against an equal unit
            raise DataError(
                f"cannot write {unit} ({error}): free some space or choose another paths.store, then run the same "
                "command again; finished chunks are kept"
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    @staticmethod
    def _clear(chunk: Path) -> None:
        """Remove what killed processes left half-written, but nothing that another may be writing now."""
        for folder in chunk.glob(f"{WRITING}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)

    def _describe(self) -> None:
        """Leave a readable note of what the run key stands for."""
        note = self.folder / "fingerprint.json"
        if not note.exists():
            atomic_text(note, json.dumps(self.fingerprint, indent=2, sort_keys=True) + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
