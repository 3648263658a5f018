"""Trace and methods on torch's meta device: nothing waits for a value, and no tensor is made on another device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compare import general_methods
from tiny import picture, question, tiny_deformable_detr, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.attribution.attribute import attribute, observe, pictures
from hetexp.attribution.method import Method, NeedsPasses
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.protocols import Adapter
from hetexp.models.trace import Target
from hetexp.targets import Logit


# The control draws its noise from a seed that the logits give, so it needs their values.
# A further pass explains the same y, so it has to know the class that was predicted. LeGrad of a sparse map adds up
# entries that name the same key, whose number depends on the values.
def methods_of(name: str) -> dict[str, Method]:
    left_out = ("random", "legrad") if name == "deformable_detr" else ("random",)
    general = general_methods(sampled=name == "deformable_detr")
    return {n: m for n, m in general.items() if n not in left_out and not isinstance(m, NeedsPasses)}


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
    methods = methods_of(name)
    (trace,) = observe(adapter, inputs, [[target, target]], methods)
    found = pictures(trace, attribute(trace, methods))
    assert set(found) == set(methods)
    for by_source in found.values():
        for source, relevance in by_source.items():
            assert relevance.device == torch.device("meta")
            assert relevance.shape == (2, *trace.layouts[source].shape)
