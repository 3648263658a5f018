"""Shards: what each leaves behind, and how they become one run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hetexp.config import Config
from hetexp.errors import DataError
from hetexp.experiments.engine.results import SHARD_MANIFEST
from hetexp.experiments.engine.session import Session, open_session
from hetexp.files import WRITING, atomic_write
from hetexp.paths import files_named

# Where a run happened decides none of its numbers; what lies at a path is hashed by the store.
_LOCAL = ("shard", "paths", "progress", "threads", "logger", "task", "merge")


def write_manifest(session: Session) -> None:
    """Record a finished shard: its place, its store and the chunks of the whole run."""
    index, count = session.shard
    facts = {"index": index, "count": count, "store": session.store.key, "chunks": session.chunk_names}
    atomic_write(session.folder / SHARD_MANIFEST, json.dumps(facts, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        config = OmegaConf.to_container(OmegaConf.load(path.with_name("config.yaml")))
        assert isinstance(config, dict)
        return {**manifest, "folder": path.parent, "config": config}
    except (OSError, ValueError, AssertionError) as error:
        raise DataError(f"{path.parent} is no complete shard folder ({error}): run that shard again") from error


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in config.items() if k not in _LOCAL}
    kept["data"] = {k: v for k, v in kept["data"].items() if k != "root"}
    kept["model"] = {k: v for k, v in kept["model"].items() if k not in ("checkpoint", "checkpoints")}
    kept.pop("profile", None)
    return kept


def _differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{path}.{k}" if path else str(k))]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]


def find_shards(folder: Path) -> list[dict[str, Any]]:
    """The shards below a folder, complete and of one configuration, by index.

    Raises:
        DataError: for no shards, mixed configurations or data, overlaps, or gaps; the message names them.
    """
    shards = [_read(path) for path in files_named(SHARD_MANIFEST, folder)]
    if not shards:
        raise DataError(f"no finished shard below {folder}: each shard's run folder holds a {SHARD_MANIFEST}")
    first = shards[0]
    for other in shards[1:]:
        faults = _differences(_comparable(first["config"]), _comparable(other["config"]))
        for key, what in (("count", "number of shards"), ("store", "checkpoint or code"), ("chunks", "data")):
            if first[key] != other[key]:
                faults.append(f"{what} differs")
        if faults:
            raise DataError(
                f"shards {first['folder']} and {other['folder']} do not belong together ({'; '.join(faults[:5])}): "
                "merge only shards of one configuration"
            )
    indices = [s["index"] for s in shards]
    repeated = sorted({i for i in indices if indices.count(i) > 1})
    if repeated:
        where = ", ".join(str(s["folder"]) for s in shards if s["index"] in repeated)
        raise DataError(f"shard {repeated} is there more than once ({where}): remove the surplus folders")
    missing = sorted(set(range(first["count"])) - set(indices))
    if missing:
        todo = ", ".join(f"shard={i}/{first['count']}" for i in missing)
        raise DataError(f"{len(missing)} of {first['count']} shards are missing below {folder}: run {todo}")
    return sorted(shards, key=lambda s: int(s["index"]))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # left by an earlier merge into this folder; the store checks what it reads
    except OSError:  # another file system
        shutil.copy2(source, target)


def merged_session(cfg: DictConfig, folder: Path | None = None) -> Session:
    """A session that evaluates the union of the shards below `merge.from`, in this run's folder.

    Raises:
        DataError: see `find_shards`, or when a shard's store is gone.
    """
    folder = folder or Path(HydraConfig.get().runtime.output_dir)
    source = cfg.merge.get("from")
    if not source or not Path(source).is_dir():
        raise DataError(f"merge.from={source!r} is no folder: name the one that holds the shards' run folders")
    shards = find_shards(Path(source))
    target = folder / "store"
    left_out = shutil.ignore_patterns(f"{WRITING}*")
    for shard in shards:
        store = shard["folder"] / "store" / shard["store"]
        if not store.is_dir():
            raise DataError(f"{store} is missing: copy the whole run folder of shard {shard['index']}")
        shutil.copytree(store, target / shard["store"], ignore=left_out, copy_function=_link, dirs_exist_ok=True)
    merged = OmegaConf.merge(OmegaConf.structured(Config), shards[0]["config"])
    assert isinstance(merged, DictConfig)
    merged.shard = None
    merged.paths.store = str(target)
    merged.progress = cfg.progress
    return open_session(merged, folder)
