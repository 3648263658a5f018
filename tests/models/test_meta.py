"""Trace and methods on torch's meta device: nothing waits for a value, and no tensor is made on another device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import picture, question, tiny_deformable_detr, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.attribution.attribute import attribute, build_methods, observe, pictures
from hetexp.attribution.method import NeedsPasses
from hetexp.attribution.registry import METHODS
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.protocols import Adapter
from hetexp.models.trace import Target
from hetexp.targets import Logit

# The control draws its noise from a seed that the logits give, so it needs their values.
# a further pass explains the same y: it has to know the class that was predicted
ALL = {n: m for n, m in build_methods(METHODS).items() if n != "random" and not isinstance(m, NeedsPasses)}
MODELS: dict[str, Callable[[], tuple[Adapter, dict[str, Tensor], Target]]] = {
    "detr": lambda: (DetrAdapter(tiny_detr().to("meta")), {"pixel_values": picture(48, 64)}, Logit(0, 1)),
    "deformable_detr": lambda: (
        DeformableDetrAdapter(tiny_deformable_detr().to("meta")),
        {"pixel_values": picture(48, 64)},
        Logit(0, 1),
    ),
    "lxmert": lambda: (LxmertAdapter(tiny_lxmert().to("meta")), question(6, 5), Logit(1)),
}


@pytest.mark.parametrize("name", MODELS)
def test_relevance_is_found_without_a_single_value(name: str) -> None:
    adapter, inputs, target = MODELS[name]()
    inputs = {key: value.to("meta") for key, value in inputs.items()}
    (trace,) = observe(adapter, inputs, [[target, target]], ALL)
    found = pictures(trace, attribute(trace, ALL))
    assert set(found) == set(ALL)
    for by_source in found.values():
        for source, relevance in by_source.items():
            assert relevance.device == torch.device("meta")
            assert relevance.shape == (2, *trace.layouts[source].shape)
