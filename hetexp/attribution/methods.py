"""Registry of attribution methods and the loop that applies several of them to one trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hetexp.attribution.attention import GradCam, RawAttention, Rollout
from hetexp.attribution.control import Random
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.gae import Gae
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError
from hetexp.models.trace import Adapter, AttentionTrace, Target


class Method(Protocol):
    """An interpreter of attention traces."""

    @property
    def corrections(self) -> tuple[str, ...]:
        """Corrected maps it asks for."""
        ...

    @property
    def features(self) -> bool:
        """Whether it reads the trace's features, which cost a longer backward pass."""
        ...

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance per source, [k, N]."""
        ...


METHODS: dict[str, Method] = {
    "ours_abs": Ours("abs"),
    "ours_pos": Ours("pos"),
    "ours_full": Ours("full"),
    "ours_noised": Ours("pos", "row"),
    "gae": Gae(),
    "odam": Odam(),
    "raw_attention": RawAttention(),
    "rollout": Rollout(),
    "grad_cam": GradCam(),
    "random": Random(),
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}. Available methods: {', '.join(METHODS)}")
    return METHODS[name]


def observe(
    adapter: Adapter,
    inputs: Mapping[str, Tensor],
    targets: Sequence[Sequence[Target]],
    methods: Mapping[str, Method],
    odam_feature: str | None = None,
) -> list[AttentionTrace]:
    """Traces of a batch that hold what these methods read, and nothing that costs more."""
    features = any(method.features for method in methods.values())
    return adapter.trace(inputs, targets, odam_feature=odam_feature, features=features)


def attribute(
    trace: AttentionTrace, methods: Mapping[str, Method], byte_budget: int = 128 * 2**20
) -> dict[str, dict[str, Tensor]]:
    """Relevance of every method for all targets of a trace.

    Targets run in groups small enough that the corrected maps of a group stay under `byte_budget`, so memory does
    not grow with their number; within a group all methods share the maps.

    Returns:
        method -> source -> relevance in the source's own shape, [k, h, w] or [k, N].
    """
    corrections = sorted({c for m in methods.values() for c in m.corrections})
    step = _targets_at_once(trace, len(corrections), byte_budget)
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in methods}
    for start in range(0, max(trace.n_targets, 1), step):
        piece = trace.slice(start, start + step)
        maps = CorrectedMaps(corrections)
        for name, method in methods.items():
            parts[name].append(method(piece, maps))
    return {
        name: {s: trace.layouts[s].restore(torch.cat([p[s] for p in pieces])) for s in trace.sources}
        for name, pieces in parts.items()
    }


def _targets_at_once(trace: AttentionTrace, corrections: int, byte_budget: int) -> int:
    entries = sum(trace.sizes[s.query] * trace.sizes[s.key] for s in trace.steps())
    itemsize = next(trace.steps()).values.dtype.itemsize
    return max(1, byte_budget // max(1, entries * itemsize * corrections))


def method_table(names: Iterable[str]) -> dict[str, Method]:
    """name -> method for several names, refusing unknown ones."""
    return {name: get_method(name) for name in names}
