"""Further passes through the model, for methods that need more than its attention and one gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hetexp.errors import ConfigError, InputError
from hetexp.models.attention import Core, attending_by
from hetexp.models.observe import default_feature, hooked
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Target, reads_box


@runtime_checkable
class Pass(Protocol):
    """A further pass; it is hashable, and methods that ask for equal ones share it."""

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets, one for each of the ordinary pass.

        Raises:
            ConfigError: where the model cannot be run so; the message says why.
        """
        ...


def with_passes(
    adapter: Adapter, inputs: Mapping[str, Tensor], traces: list[AttentionTrace], passes: Sequence[Pass]
) -> list[AttentionTrace]:
    """Traces of a batch, with those of further passes beside them."""
    for asked in passes:
        found = asked(adapter, inputs, traces)
        traces = [
            replace(trace, passes={**trace.passes, asked: other}) for trace, other in zip(traces, found, strict=True)
        ]
    return traces


def passed(trace: AttentionTrace, asked: Pass) -> AttentionTrace:
    """The trace of a further pass.

    Raises:
        InputError: if it was not made.
    """
    if asked not in trace.passes:
        raise InputError(f"this trace was taken without the pass {asked}: take it with hetexp.attribution's observe")
    return trace.passes[asked]


# -- the same targets again --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A target with its row of the prediction and its classes fixed, so that every pass explains the same y."""

    target: Target
    query: int | None

    @property
    def reads(self) -> str:
        """What it is computed from, as of every target."""
        return "box" if reads_box(self.target) else "logits"

    def __call__(self, prediction: Tensor, /) -> Tensor:
        """Scalar y."""
        return self.target(prediction)


def settled(trace: AttentionTrace) -> list[Settled]:
    """The targets of a trace, fixed by what the model predicted in it."""
    out = []
    for row, target in zip(trace.rows.tolist(), trace.targets, strict=True):
        fix: Callable[[Tensor], Target] | None = getattr(target, "settled", None)
        fixed = target if fix is None else fix(_prediction(trace, row, "logits"))
        out.append(Settled(fixed, None if trace.outputs["logits"].ndim == 1 else row))
    return out


def values_of(trace: AttentionTrace, targets: Sequence[Settled]) -> Tensor:
    """Every target's y in this trace [k]."""
    y = [target(_prediction(trace, target.query, target.reads)) for target in targets]
    return torch.stack(y) if y else torch.zeros(0)


def _prediction(trace: AttentionTrace, row: int | None, reads: str) -> Tensor:
    """Class logits of one row of the prediction [classes], or its box [4]."""
    detections = trace.outputs.get("detections")
    if detections is None:
        logits: Tensor = trace.outputs["logits"]
        return logits if logits.ndim == 1 else logits[row]
    found: Tensor = (detections.boxes if reads == "box" else detections.logits)[row]
    return found


# -- changed models ----------------------------------------------------------------------------------------------


class Operations(TorchFunctionMode, ABC):
    """Changes what operations of a model's modules do; what is done outside of them is left alone.

    It stands around the whole pass and asks whether a module runs, so that observers inside see every operation first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running = 0  # modules inside each other

    @contextmanager
    def of(self, model: nn.Module, core: Core | None = None) -> Iterator[None]:
        """The model runs so inside, with its attention computed by `core`; the model itself stays as it is."""

        def enter(module: nn.Module, args: Any) -> None:
            self._running += 1

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._running -= 1

        hooks = (
            handle
            for module in model.modules()
            for handle in (
                module.register_forward_pre_hook(enter, prepend=True),
                module.register_forward_hook(leave, always_call=True),
            )
        )
        with hooked(hooks), attending_by(core), self:
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.changed(func, args, kwargs or {}) if self._running else func(*args, **(kwargs or {}))

    @abstractmethod
    def changed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation gives in the place of `func(*args, **kwargs)`."""


@contextmanager
def changed_features(adapter: Adapter, method: str, change: Callable[[Tensor, int], Tensor]) -> Iterator[str]:
    """The model's default features are changed as they are made: `change(features, number of the tensor)`.

    Returns:
        their name.

    Raises:
        ConfigError: for a model that does not say which modules make them.
    """
    name = default_feature(adapter.feature_names)
    offered: Callable[[], Mapping[str, Sequence[nn.Module]]] = getattr(adapter, "feature_modules", dict)
    modules = offered().get(name)
    if modules is None:
        raise ConfigError(
            f"method {method} changes the features {name!r}, and {adapter.name} does not say which modules make them: "
            "give its adapter feature_modules"
        )
    count = 0

    def changed(output: Any) -> Any:
        nonlocal count
        if isinstance(output, Tensor):
            count += 1
            return change(output, count - 1)
        if isinstance(output, list):  # levels, with or without their masks
            return [changed(level) for level in output]
        if isinstance(output, tuple):
            return (changed(output[0]), *output[1:])
        raise ConfigError(f"method {method} cannot change the features {name!r} of {adapter.name}: {type(output)}")

    with hooked(module.register_forward_hook(lambda m, i, output: changed(output)) for module in modules):
        yield name
