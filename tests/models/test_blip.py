"""BLIP: every method against the dense oracle with three streams in a row, padding, generated answers."""

from __future__ import annotations

import copy
from typing import Any

import oracle
import pytest
import torch
from compare import distance, tolerance
from mixture_oracle import run_mixture
from tiny import TOWER, lively, picture
from torch import Tensor
from transformers import BlipConfig, BlipForQuestionAnswering

import hetexp
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.lrp import PASS
from hetexp.errors import InputError
from hetexp.models.blip import BlipAdapter
from hetexp.targets import Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]
LAYERS = TOWER["num_hidden_layers"]
LINKS = [("image", "image")] * LAYERS + [("text", "text"), ("text", "image")] * LAYERS
LINKS += [("answer", "answer"), ("answer", "text")] * LAYERS


def blip() -> Any:
    torch.manual_seed(0)
    sizes = {**TOWER, "projection_dim": 8}
    text = {"vocab_size": 30, "encoder_hidden_size": 16, "max_position_embeddings": 20, "is_decoder": True}
    text |= {"bos_token_id": 28, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
    config = BlipConfig(text_config={**sizes, **text}, vision_config={**sizes, "image_size": 32, "patch_size": 8})
    return lively(BlipForQuestionAnswering(config))


def inputs_of(seed: int = 0, words: int = 5, prefix: int = 4) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(3, 28, (1, words), generator=g),
        "pixel_values": picture(32, 32, seed),
        "decoder_input_ids": torch.cat([torch.tensor([[28]]), torch.randint(3, 28, (1, prefix - 1), generator=g)], 1),
    }


def wanted(model: Any, inputs: dict[str, Tensor], target: Logit) -> oracle.Run:
    assert target.query is not None
    n = target.query + 1
    layers = {
        "image": model.vision_model.encoder.layers[0],
        "text": model.text_encoder.encoder.layer[0],
        "answer": model.text_decoder.bert.encoder.layer[0],
    }

    def forward() -> Tensor:
        kept = []
        hook = model.text_decoder.register_forward_hook(lambda m, i, o: kept.append(o.logits))
        model(**{**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:, :n]})
        hook.remove()
        return target(kept[0][0, -1])

    return run_mixture(forward, LINKS, LAYERS, layers, "answer", n - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_method_equals_the_oracle(dtype: torch.dtype) -> None:
    model, inputs = blip(), inputs_of()
    targets = [Logit(3, query=3), Logit(9, query=2)]
    runs = [wanted(model, inputs, target) for target in targets]
    found = hetexp.explain(BlipAdapter(copy.deepcopy(model).to(dtype)), inputs, METHODS, targets)
    for method in METHODS:
        whole = [oracle.METHODS[method](run) for run in runs]
        for source, skipped in (("image", 1), ("text", 0)):
            want = torch.stack([one[source][skipped:] for one in whole])
            assert float(want.abs().max()) > 0, (method, source)
            assert distance(found.tokens(method, source), want) <= tolerance(method, dtype), (method, source)
        for got, one in zip(found[method]["answer"], whole, strict=True):
            n = len(one["answer"])
            assert distance(got[None, :n], one["answer"][None]) <= tolerance(method, dtype), method
        assert found[method]["image"].shape == (2, 4, 4)


def test_a_padded_batch_equals_single_items() -> None:
    adapter, items = BlipAdapter(blip()), [inputs_of(1, 4, 3), inputs_of(2, 6, 2)]
    targets = [[Logit(3, query=2)], [Logit(4, query=1)]]
    batch = {"pixel_values": torch.cat([item["pixel_values"] for item in items])}
    for key, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        width = max(item[key].shape[1] for item in items)
        batch[key], batch[mask] = torch.full((2, width), 5), torch.zeros(2, width).long()
        for row, item in enumerate(items):
            n = item[key].shape[1]
            batch[key][row, :n], batch[mask][row, :n] = item[key][0], 1
    together = hetexp.explain(adapter, batch, METHODS, targets)
    for i, item in enumerate(items):
        alone = hetexp.explain(adapter, item, METHODS, targets[i])
        for method in METHODS:
            for source in ("image", "text", "answer"):
                got = together.item(i)[method][source]
                assert distance(got, alone[method][source]) <= 1e-9, (method, source)


def test_a_generated_answer_equals_its_tokens_one_at_a_time() -> None:
    adapter, inputs = BlipAdapter(blip()), inputs_of()
    inputs.pop("decoder_input_ids")
    found = hetexp.explain_generated(adapter, inputs, METHODS, max_new_tokens=3)
    ids = adapter.generate(inputs, 3)
    assert len(found.rows) == ids.shape[1] - 1 == 3
    for t in range(3):
        one = hetexp.explain(
            adapter, {**inputs, "decoder_input_ids": ids[:, : t + 1]}, METHODS, Logit(int(ids[0, t + 1]))
        )
        for method in METHODS:
            for source in ("image", "text"):
                assert distance(found[method][source][t : t + 1], one[method][source]) <= 1e-9, method
            assert distance(found[method]["answer"][t : t + 1, : t + 1], one[method]["answer"]) <= 1e-9, method
    with pytest.raises(InputError, match="start token"):
        hetexp.explain_generated(adapter, inputs_of(), METHODS)


def _mean_maps(run: oracle.Run, query: str, key: str) -> Tensor:
    """Mean over layers and heads of the attention from one stream to another [Nq, Nk]."""
    steps = [step for group in run.fusion for step in group if (step.query, step.key) == (query, key)]
    return torch.stack([step.map.sum(0) / len(step.map) for step in steps]).mean(0)


def test_mean_attention_passes_through_the_question() -> None:
    model, inputs = blip(), inputs_of()
    found = hetexp.explain(BlipAdapter(model), inputs, ["mean_attention"], Logit(3, query=3))["mean_attention"]
    run = wanted(model, inputs, Logit(3, query=3))
    text = _mean_maps(run, "answer", "text")[3]
    assert distance(found["text"], text[None]) <= 1e-9
    assert distance(found["image"].flatten(1), (text @ _mean_maps(run, "text", "image"))[None, 1:]) <= 1e-9


def test_relevance_propagation_reaches_the_picture() -> None:
    adapter, inputs, target = BlipAdapter(blip()), inputs_of(), Logit(3, query=3)
    methods = build_methods(["partial_lrp", "transformer_attribution", "gae_lrp"])
    (trace,) = observe(adapter, inputs, [[target]], methods)
    relevance = {step.name: step for step in trace.passes[PASS].steps()}
    plain = {step.name: step for step in trace.steps()}

    def lrp(name: str) -> Tensor:  # [heads, Nq, Nk], from the equations
        step = relevance[name]
        heads = []
        for attention, values, reached in zip(step.probabilities, step.values, step.output_gradient[0], strict=True):
            out = attention @ values
            heads.append(attention * ((reached / (out + 1e-9)) @ values.T) / 2)
        return torch.stack(heads)

    def with_gradient(name: str) -> Tensor:  # [Nq, Nk]
        step = plain[name]
        gradients = step.output_gradient[0] @ step.values.transpose(1, 2)
        return (gradients * lrp(name)).clamp(min=0).mean(0)

    found = attribute(trace, methods)
    last = f"text.{LAYERS - 1}.cross"
    assert distance(found["partial_lrp"]["image"], lrp(last).mean(0).sum(0)[None, 1:]) <= 1e-8
    text = with_gradient(f"answer.{LAYERS - 1}.cross")[3]
    assert distance(found["transformer_attribution"]["text"], text[None]) <= 1e-8
    assert distance(found["transformer_attribution"]["image"], (text @ with_gradient(last))[None, 1:]) <= 1e-8
    assert all(float(x["image"].abs().max()) > 0 for x in found.values())
