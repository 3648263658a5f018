"""Content hashes of what results depend on: weights, preprocessing, code."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hetexp.models.protocols import Adapter
from hetexp.paths import PACKAGE

# What every method's relevance is computed with; a method's own modules are hashed with its settings.
SHARED = (
    "models/*.py",
    "attribution/attribute.py",
    "attribution/corrections.py",
    "attribution/maps.py",
    "attribution/propagation.py",
    "targets.py",
)


def checkpoint_digest(adapter: Adapter) -> str:
    """SHA-256 of the loaded weights and of the configuration that shapes the computation."""
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter.model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = adapter.model.config.to_dict()
    for key in ("_name_or_path", "transformers_version"):  # where it came from decides nothing
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@cache
def source_digest(path: Path) -> str:
    """SHA-256 of what a Python file computes: its syntax tree, without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def attribution_sources(path: Path, package: Path = PACKAGE) -> set[Path]:
    """A module and what it imports of `hetexp.attribution`, directly or through other modules of it."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            parts = [name.split(".") for name in names]
            files = [
                package / "attribution" / f"{p[2]}.py" for p in parts if p[:2] == ["hetexp", "attribution"] and p[2:]
            ]
            waiting += [file for file in files if file.is_file()]
    return found


def _digest(paths: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update((path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name).encode())
        digest.update(source_digest(path).encode())
    return digest.hexdigest()


@cache
def class_digest(cls: type) -> str:
    """SHA-256 of the module that a method's class comes from, and of the attribution modules that it is built on."""
    return _digest(attribution_sources(Path(inspect.getfile(cls))), PACKAGE)


@cache
def code_digest() -> str:
    """SHA-256 of the sources that every method's relevance depends on."""
    return _digest((found for pattern in SHARED for found in PACKAGE.glob(pattern)), PACKAGE)


def versions() -> dict[str, str]:
    """Versions of what the numbers come from."""
    import platform
    from importlib.metadata import version

    names = ("hetexp", "torch", "transformers", "numpy", "pycocotools", "hydra-core", "pandas")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def attribution_fingerprint(adapter: Adapter, settings: dict[str, Any]) -> dict[str, Any]:
    """What every stored relevance of a run depends on besides its item and its method."""
    return {
        "model": adapter.name,
        "checkpoint": checkpoint_digest(adapter),
        "dtype": str(adapter.dtype),
        "code": code_digest(),
        **adapter.preparation,
        **settings,
    }
