"""hetexp: explain transformers whose attention mixes several sources."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetexp import masks, targets
    from hetexp.api import explain
    from hetexp.attribution.registry import METHODS, MethodRecord, register_method
    from hetexp.dry_run import structure
    from hetexp.explanation import Explanation
    from hetexp.generated import explain_generated
    from hetexp.models.proposal import propose
    from hetexp.models.registry import load_model
    from hetexp.models.wired import wrap
    from hetexp.models.wiring_file import Wiring

__all__ = [
    "METHODS",
    "Explanation",
    "MethodRecord",
    "Wiring",
    "explain",
    "explain_generated",
    "load_model",
    "masks",
    "propose",
    "register_method",
    "structure",
    "targets",
    "wrap",
]
__version__ = "0.1.0"

# Loaded when first asked for: the command line answers --help and typing errors without torch.
_HOME = {
    "METHODS": "attribution.registry",
    "Explanation": "explanation",
    "MethodRecord": "attribution.registry",
    "explain": "api",
    "explain_generated": "generated",
    "load_model": "models.registry",
    "register_method": "attribution.registry",
    "structure": "dry_run",
    "Wiring": "models.wiring_file",
    "propose": "models.proposal",
    "wrap": "models.wired",
}


def __getattr__(name: str) -> Any:
    if name in ("masks", "targets"):
        return import_module(f"hetexp.{name}")
    if name in _HOME:
        value = getattr(import_module(f"hetexp.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hetexp' has no attribute {name!r}")
