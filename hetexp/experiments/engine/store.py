"""The store between attribution and evaluation: chunks of relevance and rows, written whole or not at all.

    store/<run key>/<chunk>/<unit>/    tensors.safetensors, <table>.parquet ..., digests.json

The run key hashes what every chunk depends on (checkpoint, target, code of the attribution); a chunk's name
hashes the bytes of its items; a unit's name hashes its own settings (a method). So a unit that exists is the one
that would be computed, a stale one is simply never looked up, and a damaged one is found by its digests.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetexp.errors import DataError
from hetexp.files import WRITING, atomic_folder, atomic_write, content_hash, file_hash, sync

log = logging.getLogger("hetexp")

DIGESTS = "digests.json"
ABANDONED = 3600.0  # seconds after which a half-written unit's process must have died
TENSORS = "tensors.safetensors"


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

    def exists(self, chunk: str, name: str, settings: Any = None) -> bool:
        """Whether a unit is there, damaged or not."""
        return self.unit(chunk, name, settings).exists()

    def has(self, chunk: str, name: str, settings: Any = None) -> bool:
        """Whether a unit is there and undamaged; a damaged one is removed, so that it is computed again."""
        unit = self.unit(chunk, name, settings)
        if not unit.is_dir():
            return False
        try:
            digests = json.loads((unit / DIGESTS).read_text(encoding="utf-8"))
            sound = bool(digests) and all(file_hash(unit / n) == value for n, value in digests.items())
        except (OSError, ValueError, AttributeError):
            sound = False
        if not sound:
            log.warning("stored unit %s is damaged and will be computed again", unit)
            self.recomputed += 1
            shutil.rmtree(unit, ignore_errors=True)
        return sound

    def read(self, chunk: str, name: str, settings: Any = None) -> Unit:
        """Load a unit.

        Raises:
            DataError: if it is not there or cannot be read.
        """
        unit = self.unit(chunk, name, settings)
        try:
            names = list(json.loads((unit / DIGESTS).read_text(encoding="utf-8")))
            tensors = load_file(unit / TENSORS) if TENSORS in names else {}
            tables = {Path(n).stem: pd.read_parquet(unit / n) for n in names if n.endswith(".parquet")}
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"stored unit {unit} cannot be read ({error}): run the same command again") from error
        return Unit(tensors, tables)

    def write(
        self,
        chunk: str,
        name: str,
        settings: Any = None,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        tables: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        """Write a unit under a temporary name and rename it into place.

        Raises:
            DataError: if the disk refuses; nothing half-written stays, what was stored before is intact.
        """
        unit = self.unit(chunk, name, settings)
        try:
            self._describe()
            self._clear(unit.parent)
            with atomic_folder(unit) as temporary:  # another process may be faster, and has written the same
                if tensors is not None:
                    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / TENSORS)
                for title, table in (tables or {}).items():
                    table.to_parquet(temporary / f"{title}.parquet", index=False)
                digests = {p.name: file_hash(p) for p in sorted(temporary.iterdir())}
                (temporary / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
                mode = (temporary / DIGESTS).stat().st_mode  # what the user's umask allows; safetensors writes 0600
                for path in temporary.iterdir():
                    path.chmod(mode)
                    sync(path)
        except (OSError, SafetensorError) as error:
            if unit.is_dir():
                return  # lost a race against an equal unit
            raise DataError(
                f"cannot write {unit} ({error}): free some space or choose another paths.store, then run the same "
                "command again; finished chunks are kept"
            ) from error

    @staticmethod
    def _clear(folder_of_chunk: Path) -> None:
        """Remove what killed processes left half-written, but nothing that another may be writing now."""
        for folder in folder_of_chunk.glob(f"{WRITING}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)

    def _describe(self) -> None:
        """Leave a readable note of what the run key stands for."""
        note = self.folder / "fingerprint.json"
        if not note.exists():
            atomic_write(note, json.dumps(self.fingerprint, indent=2, sort_keys=True) + "\n")
