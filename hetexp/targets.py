"""Targets: the scalar y whose gradient corrects the attention maps (arXiv 2605.27458, section 5.2).

Class targets are taken of raw logits, box targets of the predicted box. `query` names an object query; None stands for
every kept query, or for the only row of logits that a model which answers questions has. Classes and answers go by
index or by name; names are looked up by `resolve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, ClassVar

from torch import Tensor

from hetexp.errors import ConfigError, InputError

Class = int | str  # index of a logit, or the name of its class or answer
SIDES = ("left", "top", "right", "bottom")


def _pick(logits: Tensor, index: Class) -> Tensor:
    if isinstance(index, str):
        raise InputError(f"target names the class {index!r}: call hetexp.targets.resolve(target, labels) first")
    if not 0 <= index < logits.shape[-1]:
        raise InputError(f"class {index} does not exist: expected 0 to {logits.shape[-1] - 1}")
    return logits[index]


@dataclass(frozen=True)
class Logit:
    """y = logit of class or answer `index`; None is the argmax (of a detector without "no object")."""

    index: Class | None = None
    query: int | None = None

    @property
    def classes(self) -> tuple[int] | None:
        """The logits that y is computed from; None where that depends on them."""
        return (self.index,) if isinstance(self.index, int) else None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]; which one the argmax is, nothing waits for."""
        return logits.max(-1).values if self.index is None else _pick(logits, self.index)

    def settled(self, logits: Tensor) -> Logit:
        """The target with its class, for these logits [classes]: other logits do not change what is asked."""
        return replace(self, index=int(logits.argmax())) if self.index is None else self


@dataclass(frozen=True)
class Probability:
    """y = softmax probability of class or answer `index`, among those that can be explained; None is the argmax."""

    index: Class | None = None
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        shares = logits.softmax(-1)
        return (
            shares.gather(-1, logits.argmax(-1, keepdim=True))[0] if self.index is None else _pick(shares, self.index)
        )

    def settled(self, logits: Tensor) -> Probability:
        """The target with its class, for these logits [classes]."""
        return replace(self, index=int(logits.argmax())) if self.index is None else self


@dataclass(frozen=True)
class Second:
    """y = the second largest logit: whether a map tells the class that was found from another of the same token."""

    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return self.settled(logits)(logits)

    def settled(self, logits: Tensor) -> Logit:
        """The target with its class, for these logits [classes]."""
        return Logit(int(logits.topk(2).indices[1]), self.query)


@dataclass(frozen=True)
class Difference:
    """y = logit_a - logit_b."""

    a: Class
    b: Class
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return _pick(logits, self.a) - _pick(logits, self.b)


@dataclass(frozen=True)
class Ratio:
    """y = logit_a / logit_b."""

    a: Class
    b: Class
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return _pick(logits, self.a) / _pick(logits, self.b)


@dataclass(frozen=True)
class RelativeDifference:
    """y = (logit_a - logit_b) / logit_b; its gradient is that of `Ratio`."""

    a: Class
    b: Class
    query: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        b = _pick(logits, self.b)
        return (_pick(logits, self.a) - b) / b


@dataclass(frozen=True)
class RunnerUp:
    """Difference, Ratio or RelativeDifference between the largest logit and the second largest.

    Args:
        kind: "difference", "ratio" or "relative_difference".
    """

    kind: str
    query: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in PAIRS:
            raise ConfigError(f"unknown kind {self.kind!r} of a target: choose one of {', '.join(PAIRS)}")

    def __call__(self, logits: Tensor) -> Tensor:
        """y [] from logits [classes]."""
        return self.of(logits)(logits)

    def of(self, logits: Tensor) -> Difference | Ratio | RelativeDifference:
        """The target with its two classes, for these logits [classes]."""
        a, b = logits.topk(2).indices.tolist()
        return PAIRS[self.kind](a, b, self.query)

    settled = of


@dataclass(frozen=True)
class BoxSide:
    """y = position of one side of the predicted box, relative to the image, as ODAM explains boxes.

    Args:
        side: "left", "top", "right" or "bottom".
    """

    side: str
    query: int | None = None
    reads: ClassVar[str] = "box"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ConfigError(f"side {self.side!r} of a box does not exist: choose one of {', '.join(SIDES)}")

    def __call__(self, box: Tensor) -> Tensor:
        """y [] from a box (centre x, centre y, width, height) [4]."""
        axis = 0 if self.side in ("left", "right") else 1
        half = box[axis + 2] / 2
        return box[axis] - half if self.side in ("left", "top") else box[axis] + half


AnyTarget = Logit | Probability | Second | Difference | Ratio | RelativeDifference | RunnerUp | BoxSide

PAIRS: dict[str, Callable[..., Difference | Ratio | RelativeDifference]] = {
    "difference": Difference,
    "ratio": Ratio,
    "relative_difference": RelativeDifference,
}
SINGLE: dict[str, Callable[..., Logit | Probability | Second]] = {
    "logit": Logit,
    "probability": Probability,
    "second": Second,
}
NAMES = (*SINGLE, *PAIRS, "box")  # as the configuration names them


def index_of(name: str, known: Iterable[str], kind: str = "class") -> int:
    """Position of a class or answer among the known ones.

    Raises:
        ConfigError: for an unknown one, with those spelled alike.
    """
    names = list(known)
    if name in names:
        return names.index(name)
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"known are, among others: {', '.join(names[:10])}"
    raise ConfigError(f"unknown {kind} {name!r}; {hint}")


def resolve(target: Any, labels: Mapping[int, str]) -> Any:
    """The target with class or answer names replaced by their indices; anything else as it is.

    Args:
        labels: index -> name.

    Raises:
        ConfigError: for a name that is none of the labels.
    """
    named = {key: value for key in ("index", "a", "b") if isinstance(value := getattr(target, key, None), str)}
    if not named:
        return target
    if not labels:
        raise ConfigError(f"target names {', '.join(map(repr, named.values()))}, but the model's classes have no names")
    keys, names = list(labels), list(labels.values())
    return replace(target, **{key: keys[index_of(name, names)] for key, name in named.items()})


def describe(target: Any, logits: Tensor, labels: Mapping[int, str]) -> str:
    """What y is, in words, for one row of class logits [classes]: e.g. "logit(yes) − logit(no)"."""

    def logit(index: int) -> str:
        return f"logit({labels.get(index, index)})"

    if isinstance(target, RunnerUp | Second):
        target = target.settled(logits)
    if isinstance(target, Probability):
        return f"p({labels.get(index := int(logits.argmax()) if target.index is None else int(target.index), index)})"
    if isinstance(target, Logit):
        return logit(int(logits.argmax()) if target.index is None else int(target.index))
    if isinstance(target, BoxSide):
        return f"{target.side} side of the box"
    signs = {Difference: "{a} − {b}", Ratio: "{a} / {b}", RelativeDifference: "({a} − {b}) / {b}"}
    if type(target) in signs:
        return signs[type(target)].format(a=logit(int(target.a)), b=logit(int(target.b)))
    return str(target)


def automatic(name: str, side: str | None = None) -> Logit | Probability | Second | RunnerUp | BoxSide:
    """The target of that name without stated classes: of one class, the argmax and the runner-up, or a box's side.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown target {name!r}. Available targets: {', '.join(NAMES)}")
    if name == "box":
        return BoxSide(side or "left")
    return SINGLE[name]() if name in SINGLE else RunnerUp(name)
