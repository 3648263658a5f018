"""Observe attention modules through forward hooks that are always removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hetexp.errors import ConfigError


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
    requested = list(requested)
    if requested and not known:
        raise ConfigError(
            f"feature {requested[0]!r} is not known for this model: it offers none; choose a method that reads maps"
        )
    own = {name: known[0] if name == "default" else name for name in requested}
    unknown = [name for name in own.values() if name not in known]
    if unknown:
        raise ConfigError(
            f"feature {unknown[0]!r} is not known for this model: choose one of default, {', '.join(known)}"
        )
    return own


def default_feature(known: Sequence[str]) -> str:
    """The feature that a method reads unless it names another.

    Raises:
        ConfigError: for a model that offers none.
    """
    return resolve_features(["default"], known)["default"]


def pick(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries `index` (distinct, ascending) of one dimension; no copy where that is all of them."""
    return x if len(index) == x.shape[dim] else x.index_select(dim, index)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., N, heads * head_dim] -> [..., heads, N, head_dim]"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def share(x: Tensor, n: int, members: Sequence[int]) -> Tensor:
    """The rows of some of `n` items among a batch's [n * m, ...], m of each."""
    return x.unflatten(0, (n, -1))[list(members)].flatten(0, 1)
