"""What must hold between a wiring and what was observed in a pass; what does not is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hetexp.errors import ConfigError, InputError, some
from hetexp.models.survey import read_tokens
from hetexp.models.watch import Seen
from hetexp.models.wiring_file import WiredStep, Wiring


def matched(wiring: Wiring, calls: Sequence[Seen]) -> dict[str, Seen]:
    """Step's name -> what was observed of it; every map is used once, in the order of the pass, and O = A V.

    Raises:
        ConfigError: for a wiring that does not fit what was observed.
        InputError: for attention that cannot be explained.
    """
    found: dict[str, Seen] = {}
    counts: dict[str, int] = {}
    for call in calls:
        counts[call.name] = counts.get(call.name, 0) + 1
        found[WiredStep(call.name, "", "", counts[call.name]).name] = call
    wired = [step.name for step in wiring.steps]
    silent = [name for name in wired if name not in found]
    if silent:
        raise ConfigError(f"wired, but no attention was observed there: {some(silent)}; take it out of the wiring")
    left = [name for name in found if name not in wired]
    if left:
        raise ConfigError(f"observed, but not wired: {some(left)}; every observed map is used once, so add it")
    _check_order(wiring, {name: i for i, name in enumerate(found)})
    for name in wired:
        _check_product(name, found[name])
    return {name: found[name] for name in wired}


def sizes_of(wiring: Wiring, seen: Mapping[str, Seen]) -> dict[str, int]:
    """Tokens of every stream, which all its steps must agree on.

    Raises:
        ConfigError: naming two steps that do not.
    """
    said: dict[str, dict[int, str]] = {}
    for step in wiring.steps:
        call = seen[step.name]
        said.setdefault(step.query, {}).setdefault(call.probabilities.shape[2], f"the queries of {step.name}")
        said.setdefault(step.key, {}).setdefault(call.values.shape[2], f"the keys of {step.name}")
    for stream, counts in said.items():
        if len(counts) > 1:
            (a, of_a), (b, of_b) = list(counts.items())[:2]
            raise ConfigError(
                f"token counts of stream {stream!r} disagree: {of_a} are {a}, {of_b} are {b}; one of them is another "
                "stream"
            )
    for step in wiring.steps:
        if step.query == step.key == wiring.causal and not is_causal(seen[step.name]):
            raise ConfigError(
                f"causal is {step.query!r}, and in {step.name} its tokens attend later ones: set it to null"
            )
    return {stream: next(iter(counts)) for stream, counts in said.items()}


def is_causal(seen: Seen) -> bool:
    """Whether no token of a dense map attends one after itself."""
    return seen.indices is None and not bool((seen.probabilities.triu(1) != 0).any())


def last_read(steps: Sequence[WiredStep], seen: Mapping[str, Seen], y: Tensor) -> dict[str, list[int]]:
    """Stream -> its tokens that y is read from, past the last attention that concerns it."""
    found = read_tokens([seen[step.name] for step in steps], y)
    tokens: dict[str, list[int]] = {}
    for step, read in zip(steps, found, strict=True):
        tokens[step.query] = sorted({*tokens.get(step.query, []), *read})
    return {stream: read for stream, read in tokens.items() if read}


def mixed(row: Tensor) -> Tensor:
    """A scalar of one row of logits [classes] that depends on all of them, even where their sum is fixed."""
    return row @ torch.linspace(1, 2, len(row), dtype=row.dtype, device=row.device)


def logits_of(output: Any, name: str | None) -> Tensor:
    """The logits of one item as [rows, classes], from what a model returned.

    Raises:
        ConfigError: if it returned no such tensor.
    """
    if name is None:
        found = output
    elif name.isdigit() and isinstance(output, Sequence):
        found = output[int(name)] if int(name) < len(output) else None
    else:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if not isinstance(found, Tensor):
        has = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise ConfigError(f"output: {name or 'null'} is no tensor of what the model returned ({has}): name its logits")
    return found.reshape(-1, found.shape[-1])


def _check_order(wiring: Wiring, order: Mapping[str, int]) -> None:
    """Steps that share a stream come in the order in which they ran, but for those of one group."""
    last: dict[str, WiredStep] = {}
    for group in [*((step,) for step in wiring.encoder), *wiring.fusion]:
        for step in group:
            for other in (last[s] for s in (step.query, step.key) if s in last):
                if order[other.name] > order[step.name]:
                    raise ConfigError(f"step {step.name} is wired after {other.name}, and ran before it: reorder them")
        for step in group:
            last[step.query] = max(step, last.get(step.query, step), key=lambda s: order[s.name])


def _check_product(name: str, seen: Seen) -> None:
    """A map of one item whose rows are weights, with O = A V."""
    if len(seen.probabilities) != 1:
        raise InputError(
            f"{name} attends in {len(seen.probabilities)} maps at once: explain one input at a time; attention in "
            "windows has no map between whole streams"
        )
    if seen.indices is not None:
        return  # where values are sampled, the library's own function made the output of the same map
    a, output = seen.probabilities, seen.by_head(seen.output.detach()[None])[0]
    tolerance = max(1e-3, 8 * torch.finfo(a.dtype).eps)  # some models round their softmax to less than their own type
    sums = a.sum(-1)
    if not bool((((sums - 1).abs() < tolerance) | (sums == 0)).all()):
        raise InputError(f"the rows of {name} do not sum to 1: what was observed there is no attention map")
    error = (a @ seen.values - output).abs().max() / output.abs().max().clamp(min=1)
    if float(error) > tolerance:
        raise InputError(f"the output of {name} is not its map times its values: this attention cannot be explained")
