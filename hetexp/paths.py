"""Where the package's own files lie, and how a run's are found."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from hetexp.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The configuration folder: inside an installed package, or beside it in a checkout."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"conf/config.yaml is neither in {PACKAGE} nor beside it: reinstall hetexp")


def asset(name: str = "") -> str:
    """Path of an embedded asset; the empty name is the assets folder itself."""
    return str(PACKAGE / "assets" / name) if name else str(PACKAGE / "assets")


def files_named(name: str, folder: Path) -> list[Path]:
    """All files of that name below a folder, sorted; folders that a running process takes away are passed over."""
    return sorted(Path(at) / name for at, _, names in os.walk(folder) if name in names)


def import_from(reference: str) -> Any:
    """What "module:name" refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
