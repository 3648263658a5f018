"""NaN in weights, NaN in inputs and overflow are refused at the first forward pass, which names where they begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_joint_streams import vilt
from test_two_towers import clip
from text_models import tiny_bart
from tiny import picture, question, tiny_deformable_detr, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.errors import CheckpointError, InputError
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.detr import DetrAdapter
from hetexp.models.encoder_decoder import BartAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.two_towers import ClipAdapter
from hetexp.models.vilt import ViltAdapter
from hetexp.targets import Logit

Model = tuple[Any, dict[str, Tensor], Logit]
WORDS = torch.tensor([[1, 5, 29]])


# A model with its inputs and a target, the weight that is damaged, and the first module that suffers from it.
CASES: dict[str, tuple[Callable[[], Model], str, str]] = {
    "detr": (
        lambda: (DetrAdapter(tiny_detr()), {"pixel_values": picture(48, 64)}, Logit(0, query=1)),
        "model.decoder.layers.1.encoder_attn.v_proj.weight",
        "model.decoder.layers.1.encoder_attn.v_proj",
    ),
    "detr's boxes": (
        lambda: (DetrAdapter(tiny_detr()), {"pixel_values": picture(48, 64)}, Logit(0, query=1)),
        "bbox_predictor.layers.0.weight",
        "bbox_predictor.layers.0",
    ),
    "deformable_detr": (
        lambda: (DeformableDetrAdapter(tiny_deformable_detr()), {"pixel_values": picture(64, 64)}, Logit(0, query=1)),
        "model.encoder.layers.0.mlp.fc1.bias",
        "model.encoder.layers.0.mlp.fc1",
    ),
    "lxmert": (
        lambda: (LxmertAdapter(tiny_lxmert()), question(5, 4), Logit(1)),
        "lxmert.encoder.x_layers.0.visual_attention.att.key.weight",
        "lxmert.encoder.x_layers.0.visual_attention.att.key",
    ),
    "bart": (
        lambda: (BartAdapter(tiny_bart()), {"input_ids": torch.tensor([[0, 5, 6, 2]])}, Logit(3)),
        "model.encoder.layers.1.fc2.weight",
        "model.encoder.layers.1.fc2",
    ),
    "vilt": (
        lambda: (ViltAdapter(vilt()), {"input_ids": WORDS, "pixel_values": picture(32, 32)}, Logit(3)),
        "vilt.encoder.layer.0.output.dense.weight",
        "vilt.encoder.layer.0.output.dense",
    ),
    "clip": (
        lambda: (ClipAdapter(clip()), {"input_ids": WORDS, "pixel_values": picture(32, 32)}, Logit(0, query=0)),
        "vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_model.encoder.layers.0.mlp.fc1",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_weight_is_named_with_the_first_module_that_suffers(case: str, value: float) -> None:
    build, weight, module = CASES[case]
    adapter, inputs, target = build()
    with torch.no_grad():
        adapter.model.get_parameter(weight).view(-1)[:9] = value
    with pytest.raises(CheckpointError) as caught:
        adapter.trace(inputs, [[target]])
    assert f"the first module of which that is true is {module}. The checkpoint is damaged" in str(caught.value)
    assert f"{weight} (9 of" in str(caught.value)
    assert not any(m._forward_hooks for m in adapter.model.modules())


def test_detecting_and_answering_refuse_them_too() -> None:
    for case, call in (("detr", "detect"), ("deformable_detr", "detect"), ("lxmert", "predict")):
        build, weight, _ = CASES[case]
        adapter, inputs, _ = build()
        getattr(adapter, call)(inputs)  # sound
        with torch.no_grad():
            adapter.model.get_parameter(weight).fill_(float("nan"))
        with pytest.raises(CheckpointError, match="The checkpoint is damaged"):
            getattr(adapter, call)(inputs)


@pytest.mark.parametrize("case", ["detr", "deformable_detr", "clip"])
def test_an_input_that_is_not_finite_is_named(case: str) -> None:
    adapter, inputs, target = CASES[case][0]()
    inputs["pixel_values"][0, 0, 3, 3] = float("nan")
    with pytest.raises(InputError, match="input 'pixel_values' holds NaN or infinity"):
        adapter.trace(inputs, [[target]])


def test_an_overflow_is_no_damage() -> None:
    adapter, inputs, target = CASES["lxmert"][0]()
    adapter.model.float()
    with torch.no_grad():
        adapter.model.get_parameter("answer_head.logit_fc.0.weight").fill_(3e38)
    with pytest.raises(InputError, match=r"answer_head.logit_fc.0. Weights and inputs are finite, .* in float32"):
        adapter.trace(inputs, [[target]])


def test_a_class_that_is_ruled_out_is_no_damage() -> None:
    adapter, inputs, target = CASES["lxmert"][0]()
    with torch.no_grad():
        adapter.model.answer_head.logit_fc[-1].bias[3] = -float("inf")
    (trace,) = adapter.trace(inputs, [[target]])
    assert trace.outputs["logits"][3] == -float("inf")
