"""What an explanation costs: passes through the model, time and memory, one method at a time.

<run>/costs.csv    a row per method; times differ from run to run, so they are no part of results.csv
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hetexp.attribution.attribute import attribute, observe
from hetexp.attribution.method import Method
from hetexp.errors import ConfigError
from hetexp.experiments.engine.session import Session
from hetexp.files import atomic_write
from hetexp.models.observe import hooked
from hetexp.models.protocols import Adapter
from hetexp.models.trace import Target

log = logging.getLogger("hetexp")

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler writes a line to the console at every start and stop

COSTS = "costs.csv"
COLUMNS = [
    "model",
    "checkpoint",
    "data",
    "method",
    "explanations",
    "forward",
    "backward",
    "seconds",
    "seconds_ratio",
    "memory",
    "memory_ratio",
    "refused",
]


@dataclass(frozen=True)
class Priced:
    """One explanation to measure: a batch of one, what is explained of it, and a plain forward pass."""

    inputs: Mapping[str, Tensor]
    target: Target
    forward: Callable[[], Any]


def measure_costs(session: Session, items: Sequence[Priced]) -> None:
    """Write costs.csv, and leave methods that do not apply to the model out of the run, with their reasons.

    Ratios are to a plain forward pass measured right before, the median over the items; memory is what was allocated at
    a time, of the first item.
    """
    rows, kept = [], []
    for spec in session.methods:
        about = {
            "model": session.adapter.name,
            "checkpoint": session.checkpoint,
            "data": session.cfg.data.name,
            "method": spec.name,
        }
        try:
            rows.append(about | _cost(session.adapter, {spec.name: spec.method}, items))
            kept.append(spec)
        except ConfigError as error:
            log.warning("%s is left out: %s", spec.name, error)
            rows.append(about | {"refused": str(error)})
    if not kept:
        raise ConfigError(f"no method of this run applies to {session.adapter.name}: {rows[-1]['refused']}")
    session.methods = kept
    session.facts["refused"] = {row["method"]: row["refused"] for row in rows if "refused" in row}
    frame = pd.DataFrame(rows, columns=COLUMNS)
    atomic_write(session.folder / COSTS, frame.to_csv(index=False, lineterminator="\n"))


def _cost(adapter: Adapter, methods: Mapping[str, Method], items: Sequence[Priced]) -> dict[str, Any]:
    def explain(item: Priced) -> None:
        (trace,) = observe(adapter, item.inputs, [[item.target]], methods)
        attribute(trace, methods)

    with counted(adapter) as passes:
        explain(items[0])  # it also refuses, and warms up
    alone, whole = [], []
    for item in items:
        alone.append(seconds_of(item.forward))
        whole.append(seconds_of(lambda item=item: explain(item)))  # type: ignore[misc]
    least, most = peak_memory(items[0].forward), peak_memory(lambda: explain(items[0]))
    ratios = [a / b for a, b in zip(whole, alone, strict=True)]
    return {
        "explanations": len(items),
        **passes,
        "seconds": round(statistics.median(whole), 5),
        "seconds_ratio": round(statistics.median(ratios), 3),
        "memory": most,
        "memory_ratio": round(most / least, 3),
    }


@contextmanager
def counted(adapter: Adapter) -> Iterator[dict[str, int]]:
    """Forward and backward passes through the model inside, each of a single input; a batch of n counts as n."""
    passes = {"forward": 0, "backward": 0}
    plain, inside = torch.autograd.grad, False
    offered: Callable[[], Mapping[str, Sequence[torch.nn.Module]]] = getattr(adapter, "feature_modules", dict)
    modules = offered().get(adapter.feature_names[0])

    def forward(module: Any, args: Any, output: Any) -> None:
        first = next(x for x in args if isinstance(x, Tensor | list | tuple))
        passes["forward"] += len(first if isinstance(first, Tensor) else first[0])

    def grad(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        passes["backward"] += not inside
        outer, inside = inside, True  # with changed operations torch calls this function once more, under its own name
        try:
            return plain(*args, **kwargs)
        finally:
            inside = outer

    module = modules[0] if modules else adapter.model
    with hooked([module.register_forward_hook(forward)]), patch.object(torch.autograd, "grad", grad):
        yield passes


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall-clock seconds, the work of a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes of tensors that were allocated at a time, beyond those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    results = found.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
