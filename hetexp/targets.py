"""Targets: the scalar y whose gradient corrects the attention maps (protocol 2).

All are taken of raw logits. `query` names a DETR object query; None stands for every kept query, or for the only
row of logits that a VQA model has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hetexp.errors import ConfigError, InputError


def _pick(logits: Tensor, index: int) -> Tensor:
    if not 0 <= index < logits.shape[-1]:
        raise InputError(f"class {index} does not exist: expected 0 to {logits.shape[-1] - 1}")
    return logits[index]


@dataclass(frozen=True)
class Logit:
    """y = logit of class or answer `index`; None is the arg-max (for DETR without "no object")."""

    index: int | None = None
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return _pick(logits, int(logits.argmax()) if self.index is None else self.index)


@dataclass(frozen=True)
class Difference:
    """y = logit_a - logit_b."""

    a: int
    b: int
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return _pick(logits, self.a) - _pick(logits, self.b)


@dataclass(frozen=True)
class Ratio:
    """y = logit_a / logit_b."""

    a: int
    b: int
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return _pick(logits, self.a) / _pick(logits, self.b)


@dataclass(frozen=True)
class RelativeDifference:
    """y = (logit_a - logit_b) / logit_b; its gradient is that of `Ratio`."""

    a: int
    b: int
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        b = _pick(logits, self.b)
        return (_pick(logits, self.a) - b) / b


@dataclass(frozen=True)
class RunnerUp:
    """Difference, Ratio or RelativeDifference between the largest logit and the second largest."""

    kind: str
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        a, b = logits.topk(2).indices.tolist()
        return TARGETS[self.kind](a, b)(logits)


TARGETS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "logit": Logit,
    "difference": Difference,
    "ratio": Ratio,
    "relative_difference": RelativeDifference,
}


def automatic(name: str) -> Logit | RunnerUp:
    """The target of that name without stated classes: the arg-max logit, or it against the runner-up.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}. Available targets: {', '.join(TARGETS)}")
    return Logit() if name == "logit" else RunnerUp(name)
