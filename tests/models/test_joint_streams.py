"""VisualBERT and ViLT: every method against the dense oracle, and padded batches."""

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
from transformers import ViltConfig, ViltForQuestionAnswering, VisualBertConfig, VisualBertForQuestionAnswering

import hetexp
from hetexp.errors import CheckpointError, InputError
from hetexp.models.joint_stream import JointAnswerer
from hetexp.models.vilt import ViltAdapter
from hetexp.models.visual_bert import VisualBertAdapter
from hetexp.targets import Difference, Logit

# nothing is homologous where the sources meet in the first layer: that part is 0
METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS and name != "homologous"]
LAYERS = 3
SIZES: dict[str, Any] = {
    **TOWER,
    "num_hidden_layers": LAYERS,
    "vocab_size": 30,
    "max_position_embeddings": 20,
    "attn_implementation": "eager",
}


def visual_bert() -> Any:
    torch.manual_seed(0)
    config = VisualBertConfig(**SIZES, visual_embedding_dim=7)
    config.num_labels = 6
    return lively(VisualBertForQuestionAnswering(config))


def vilt(most: int = -1) -> Any:
    torch.manual_seed(0)
    config = ViltConfig(**SIZES, image_size=32, patch_size=8, max_image_length=most)
    config.num_labels = 6
    return lively(ViltForQuestionAnswering(config))


def words(seed: int, n: int) -> Tensor:
    return torch.randint(3, 30, (1, n), generator=torch.Generator().manual_seed(seed))


def regions(seed: int, n: int) -> Tensor:
    return torch.randn(1, n, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle_run(model: Any, inputs: dict[str, Tensor], target: Logit | Difference, token: int) -> oracle.Run:
    def forward() -> Tensor:
        torch.manual_seed(0)  # ViLT shuffles
        return target(model(**inputs).logits[0])

    return run_mixture(
        forward, [("joint", "joint")] * LAYERS, 0, {"joint": model.base_model.encoder.layer[0]}, "joint", token
    )


TARGETS: list[Any] = [Logit(2), Difference(1, 4), Logit(5)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_visual_bert_equals_the_oracle(dtype: torch.dtype) -> None:
    model = visual_bert()
    inputs = {"input_ids": words(1, 6), "attention_mask": torch.ones(1, 6).long(), "visual_embeds": regions(2, 5)}
    before = model(**inputs).logits
    runs = [oracle_run(model, inputs, target, token=4) for target in TARGETS]
    adapter = VisualBertAdapter(copy.deepcopy(model).to(dtype))
    found = hetexp.explain(adapter, inputs, METHODS, TARGETS)
    assert found.kind == "vqa"
    for method in METHODS:
        want = torch.stack([oracle.METHODS[method](run)["joint"] for run in runs])
        got = torch.cat([found[method]["text"], found[method]["image"]], 1)
        assert float(want.abs().max()) > 0, method
        assert distance(got, want) <= tolerance(method, dtype), method
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("most", [-1, 7])
def test_vilt_equals_the_oracle(most: int, dtype: torch.dtype) -> None:
    model = vilt(most)
    inputs = {"input_ids": words(1, 5), "pixel_values": picture(24, 40, 3)}
    inputs |= {"attention_mask": torch.ones(1, 5).long(), "pixel_mask": torch.ones(1, 24, 40).long()}
    torch.manual_seed(0)
    _, _, (index, _) = model.vilt.embeddings.visual_embed(inputs["pixel_values"], inputs["pixel_mask"], most)
    places = index[0, :, 0] * 5 + index[0, :, 1]
    assert not torch.equal(places, places.sort().values)  # the order is not that of the picture
    runs = [oracle_run(model, inputs, target, token=0) for target in TARGETS]
    adapter = ViltAdapter(copy.deepcopy(model).to(dtype))
    state = torch.random.get_rng_state()
    found = hetexp.explain(adapter, inputs, METHODS, TARGETS)
    assert torch.equal(torch.random.get_rng_state(), state)
    for method in METHODS:
        joint = torch.stack([oracle.METHODS[method](run)["joint"] for run in runs])
        want = joint.new_zeros(len(TARGETS), 15)
        want[:, places] = joint[:, 6:]
        assert float(want.abs().max()) > 0, method
        assert found[method]["image"].shape == (len(TARGETS), 3, 5)
        whole = torch.cat([found[method]["text"], found.tokens(method, "image")], 1)
        assert distance(whole, torch.cat([joint[:, :5], want], 1)) <= tolerance(method, dtype), method
    assert "visual_embed" not in vars(adapter.model.vilt.embeddings)


def same(together: Any, alone: list[Any]) -> None:
    for i, one in enumerate(alone):
        for method in METHODS:
            for source in ("text", "image"):
                got = together.item(i)[method][source]
                assert distance(got, one[method][source]) <= 1e-9, method
                whole = together[method][source][[row.item == i for row in together.rows]]
                assert torch.allclose(whole.flatten(1).sum(1), got.flatten(1).sum(1))


def test_a_padded_batch_of_visual_bert_equals_single_items() -> None:
    adapter = VisualBertAdapter(visual_bert())
    items = [{"input_ids": words(i, t), "visual_embeds": regions(i, r)} for i, (t, r) in enumerate([(4, 6), (7, 3)])]
    batch = {"input_ids": torch.full((2, 7), 9), "visual_embeds": torch.full((2, 6, 7), 0.4).double()}
    batch |= {"attention_mask": torch.zeros(2, 7).long(), "visual_attention_mask": torch.zeros(2, 6).long()}
    for row, item in enumerate(items):
        t, r = item["input_ids"].shape[1], item["visual_embeds"].shape[1]
        batch["input_ids"][row, :t], batch["attention_mask"][row, :t] = item["input_ids"][0], 1
        batch["visual_embeds"][row, :r], batch["visual_attention_mask"][row, :r] = item["visual_embeds"][0], 1
    same(
        hetexp.explain(adapter, batch, METHODS, TARGETS),
        [hetexp.explain(adapter, item, METHODS, TARGETS) for item in items],
    )


def test_a_padded_batch_of_vilt_equals_single_items() -> None:
    adapter = ViltAdapter(vilt())
    sizes = [(4, 24, 32), (6, 32, 16)]
    items = [
        {"input_ids": words(i, t), "pixel_values": picture(h, w, i), "pixel_mask": torch.ones(1, h, w).long()}
        for i, (t, h, w) in enumerate(sizes)
    ]
    batch = {"input_ids": torch.full((2, 6), 9), "attention_mask": torch.zeros(2, 6).long()}
    batch |= {"pixel_values": torch.full((2, 3, 32, 32), 0.5).double(), "pixel_mask": torch.zeros(2, 32, 32).long()}
    for row, (item, (t, h, w)) in enumerate(zip(items, sizes, strict=True)):
        batch["input_ids"][row, :t], batch["attention_mask"][row, :t] = item["input_ids"][0], 1
        batch["pixel_values"][row, :, :h, :w], batch["pixel_mask"][row, :h, :w] = item["pixel_values"][0], 1
    together = hetexp.explain(adapter, batch, METHODS, TARGETS)
    same(together, [hetexp.explain(adapter, item, METHODS, TARGETS) for item in items])
    assert together.extents == [(24, 32), (32, 16)]


@pytest.mark.parametrize("adapter", [VisualBertAdapter(visual_bert()), ViltAdapter(vilt())], ids=["regions", "patches"])
def test_the_answer_has_no_query(adapter: JointAnswerer) -> None:
    inputs = {"input_ids": words(1, 5), "visual_embeds": regions(2, 5)}
    if adapter.name == "vilt":
        inputs = {"input_ids": words(1, 5), "pixel_values": picture(32, 32)}
    with pytest.raises(InputError, match="one row of logits"):
        hetexp.explain(adapter, inputs, ["gae"], Logit(1, query=0))
    found = hetexp.explain(adapter, inputs, ["gae"])
    assert found.labels == [f"LABEL_{int(adapter.run(adapter.placed(inputs))[0].argmax())}"]


def test_regions_that_pass_the_layers_by_are_refused() -> None:
    model = visual_bert()
    model.config.bypass_transformer = True
    with pytest.raises(CheckpointError, match="bypass_transformer=true"):
        VisualBertAdapter(model)
