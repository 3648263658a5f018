"""hetexp: explain transformers whose attention mixes several sources."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetexp import masks, targets
    from hetexp.api import explain
    from hetexp.attribution.methods import METHODS
    from hetexp.models.load import load_model

__all__ = ["METHODS", "explain", "load_model", "masks", "targets"]
__version__ = "0.1.0"

# Loaded when first asked for: the command line answers --help and typing errors without torch.
_HOME = {"METHODS": "attribution.methods", "explain": "api", "load_model": "models.load"}


def __getattr__(name: str) -> Any:
    if name in ("masks", "targets"):
        return import_module(f"hetexp.{name}")
    if name in _HOME:
        value = getattr(import_module(f"hetexp.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hetexp' has no attribute {name!r}")
