"""Refuse a model whose outputs are not finite, and say where that begins.

NaN in a checkpoint is no error to torch: every class has the probability NaN, nothing is detected, and an average
precision of 0 looks like a poor model. Outputs are looked at after every pass; only when they are not finite does the
pass run once more, with a hook on every module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hetexp.errors import CheckpointError, HetexpError, InputError, some
from hetexp.models.observe import hooked


def require_finite(model: nn.Module, *outputs: Tensor, inputs: Mapping[str, Tensor], again: Callable[[], Any]) -> None:
    """Refuse outputs that hold NaN or +inf; a logit of -inf is a class that the model rules out.

    Args:
        model: what was run.
        outputs: its logits, and the boxes of a detector.
        inputs: what it was given.
        again: runs the same pass once more.

    Raises:
        CheckpointError: where a weight is not finite; it names the weight and the first module that suffers from it.
        InputError: where an input is not finite, or values overflow on the way.
    """
    if not all(x.is_meta or bool((x < math.inf).all()) for x in outputs):
        raise _explained(model, inputs, again)


def _explained(model: nn.Module, inputs: Mapping[str, Tensor], again: Callable[[], Any]) -> HetexpError:
    """The error that says where the first value that is not finite comes from."""
    for name, x in inputs.items():
        if not _finite(x):
            return InputError(f"input {name!r} holds NaN or infinity: give finite values")
    first = _first_module(model, again)
    found = "the model's outputs are not finite"
    found += f"; the first module of which that is true is {first}" if first else ""
    damaged = [
        f"{name} ({int((~x.isfinite()).sum())} of {x.numel()} values)"
        for name, x in (*model.named_parameters(), *model.named_buffers())
        if not _finite(x)
    ]
    if damaged:
        return CheckpointError(
            f"{found}. The checkpoint is damaged, these weights hold NaN or infinity: {some(damaged)}. Fetch it again, "
            "or take an earlier one of its training"
        )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return InputError(
        f"{found}. Weights and inputs are finite, so values overflow there in {dtype}: take dtype=float64, leave "
        "autocast out, or look at the input"
    )


def _first_module(model: nn.Module, again: Callable[[], Any]) -> str | None:
    """The module whose output is the first that is not finite; inner modules finish before those that hold them."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not found and not all(map(_finite, _tensors(output))):
                found.append(name)

        return hook

    with hooked(module.register_forward_hook(look(name)) for name, module in model.named_modules() if name):
        again()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a module's output, in whatever form it returns them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(x.isfinite().all())
