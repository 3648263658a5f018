"""Observe attention modules through forward hooks that are always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hetexp.errors import ConfigError


@dataclass
class Observation:
    """One call of an attention module, tensors with a batch dimension."""

    probabilities: Tensor  # [B, heads, Nq, Nk]
    values: Tensor  # [B, Nk, d], heads not split
    output: Tensor  # per-head outputs, concatenated, in the graph [B, Nq, d]


class Recorder:
    """Collects observations per module name, in call order."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Observation]] = {}
        self._values: dict[str, Tensor] = {}
        self._output: dict[str, Tensor] = {}

    def value(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self._values[name] = output

        return hook

    def head_output(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._output[name] = args[0]

        return hook

    def record(self, name: str, probabilities: Tensor, output: Tensor | None = None) -> None:
        """Close the observation of the call that just ended."""
        out = self._output.pop(name) if output is None else output
        self.calls.setdefault(name, []).append(
            Observation(probabilities.detach(), self._values.pop(name).detach(), out)
        )

    def all(self) -> list[tuple[str, int, Observation]]:
        return [(name, i, o) for name, calls in self.calls.items() for i, o in enumerate(calls)]


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks on leaving, whatever happened inside."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a module or an object has another value inside."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside: the graph then holds nothing that only weight gradients need."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def resolve_features(requested: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Requested feature name -> the model's own; "default" is the first known one.

    Raises:
        ConfigError: for an unknown name.
    """
    own = {name: known[0] if name == "default" else name for name in requested}
    unknown = [name for name in own.values() if name not in known]
    if unknown:
        raise ConfigError(
            f"feature {unknown[0]!r} is not known for this model: choose one of default, {', '.join(known)}"
        )
    return own


def pick(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries `index` (distinct, ascending) of one dimension; no copy where that is all of them."""
    return x if len(index) == x.shape[dim] else x.index_select(dim, index)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., N, heads * head_dim] -> [..., heads, N, head_dim]"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)
