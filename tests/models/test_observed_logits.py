"""An observed pass computes what the library computes: its logits are the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_blip
import test_encoder_decoders as writers
import test_joint_streams as joint
import test_two_towers as towers
import torch
from tiny import picture
from torch import Tensor

from hetexp.models.blip import BlipAdapter
from hetexp.models.two_towers import ClipAdapter
from hetexp.models.vilt import ViltAdapter
from hetexp.models.visual_bert import VisualBertAdapter
from hetexp.targets import Logit

Case = Callable[[], tuple[Any, dict[str, Tensor], Tensor]]  # adapter, inputs, the library's logits


def _writer(name: str) -> Case:
    def case() -> tuple[Any, dict[str, Tensor], Tensor]:
        of = writers.CASES[name]
        model, inputs = of.build(), {**of.read(), "decoder_input_ids": writers.PREFIX}
        return of.adapter(model), inputs, model(**inputs, use_cache=False).logits

    return case


def _blip() -> tuple[Any, dict[str, Tensor], Tensor]:
    model, inputs = test_blip.blip(), test_blip.inputs_of()
    text = model.text_encoder(
        input_ids=inputs["input_ids"],
        encoder_hidden_states=model.vision_model(inputs["pixel_values"])[0],
        return_dict=True,
    )[0]
    logits = model.text_decoder(
        input_ids=inputs["decoder_input_ids"], encoder_hidden_states=text, return_dict=True
    ).logits
    return BlipAdapter(model), inputs, logits


CASES: dict[str, Case] = {name: _writer(name) for name in ("bart", "t5", "whisper")} | {"blip": _blip}


@pytest.mark.parametrize("name", CASES)
def test_logits_of_writers(name: str) -> None:
    adapter, inputs, want = CASES[name]()
    (trace,) = adapter.trace(inputs, [[Logit(3, query=2)]])
    found = trace.outputs["logits"]
    assert found.shape == want[0].shape
    assert torch.allclose(found, want[0], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(found[0], found[1])


def test_similarities_of_clip() -> None:
    model, inputs = towers.clip(), towers.inputs_of()
    want = model(**inputs).logits_per_image
    traces = ClipAdapter(model).trace(inputs, [[Logit(2, query=1), Logit(0, query=0)]])
    assert len(traces) == 2
    for (
        trace
    ) in traces:  # the library's eager attention of CLIP rounds its weights to float32, an observed pass does not
        assert torch.allclose(trace.outputs["logits"], want, rtol=1e-6, atol=1e-6)
    model.set_attn_implementation("sdpa")
    want = model(**inputs).logits_per_image
    assert torch.allclose(traces[0].outputs["logits"], want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("build", "adapter", "inputs"),
    [
        (joint.vilt, ViltAdapter, {"pixel_values": picture(32, 32)}),
        (joint.visual_bert, VisualBertAdapter, {"visual_embeds": joint.regions(2, 5)}),
    ],
    ids=["vilt", "visual_bert"],
)
def test_answers(build: Any, adapter: Any, inputs: dict[str, Tensor]) -> None:
    model = build()
    whole = {"input_ids": joint.words(1, 6), "attention_mask": torch.ones(1, 6).long(), **inputs}
    torch.manual_seed(0)  # ViLT shuffles its patches, which changes rounding alone
    want = model(**whole).logits[0]
    (trace,) = adapter(model).trace(whole, [[Logit()]])
    assert torch.allclose(trace.outputs["logits"], want, rtol=1e-9, atol=1e-11)
    assert float(want.detach().std()) > 1e-3
