"""Content hashes of what results depend on: weights, preprocessing, code."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hetexp.models.load import AnyAdapter
from hetexp.paths import PACKAGE


def checkpoint_digest(adapter: AnyAdapter) -> str:
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
def code_digest() -> str:
    """SHA-256 of the sources that decide relevance: models, attribution and targets."""
    digest = hashlib.sha256()
    sources = [*(PACKAGE / "models").glob("*.py"), *(PACKAGE / "attribution").glob("*.py"), PACKAGE / "targets.py"]
    for path in sorted(sources):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what the numbers come from."""
    import platform
    from importlib.metadata import version

    names = ("hetexp", "torch", "transformers", "numpy", "pycocotools", "scikit-image", "hydra-core", "pandas")
    return {"python": platform.python_version(), **{n: version(n) for n in names}}


def attribution_fingerprint(adapter: AnyAdapter, settings: dict[str, Any]) -> dict[str, Any]:
    """What every stored relevance of a run depends on besides its item and its method."""
    return {
        "model": adapter.name,
        "checkpoint": checkpoint_digest(adapter),
        "dtype": str(adapter.dtype),
        "code": code_digest(),
        **settings,
    }
