"""Single items of padded batches, for methods that run one item many times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compare import distance
from text_models import save_bart
from tiny import enliven
from torch import Tensor
from transformers import ViltConfig, ViltForQuestionAnswering

import hetexp
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.items import alone
from hetexp.models.protocols import Adapter
from hetexp.models.vilt import ViltAdapter
from hetexp.targets import Logit

METHODS = build_methods(["atman", "token_tm"])
LENGTHS = (4, 2)  # of the questions; the pictures' are the other way round


def vilt() -> Adapter:
    torch.manual_seed(0)
    config = ViltConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        image_size=32,
        patch_size=8,
        num_labels=4,
        attn_implementation="eager",
    )
    model = ViltForQuestionAnswering(config)
    enliven(model, 0, 0.8)
    return ViltAdapter(model.double())


def questions_about_patches() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    words, patches = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long)
    for row, n in enumerate(LENGTHS):
        words[row, :n], patches[row, : LENGTHS[1 - row]] = 1, 1
    return {
        "input_ids": torch.randint(5, 30, (2, 4), generator=g) * words,
        "attention_mask": words,
        "image_embeds": torch.randn(2, 4, 16, generator=g, dtype=torch.float64) * patches[..., None],
        "pixel_mask": patches,
    }


@pytest.fixture(params=["vilt", "bart"])
def batch(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Adapter, dict[str, Tensor]]:
    if request.param == "vilt":
        return vilt(), questions_about_patches()
    adapter = hetexp.load_model(save_bart(tmp_path / "bart"), dtype=torch.float64)
    return adapter, adapter.prepare(text=["is there a dog ?", "how many"], target=["yes", "1 2 3"])


def test_padding_of_a_batch_is_no_part_of_its_items(batch: tuple[Adapter, dict[str, Tensor]]) -> None:
    adapter, inputs = batch
    together = observe(adapter, inputs, [[Logit(1)], [Logit(2)]], METHODS)
    for item, trace in enumerate(together):
        own = alone(inputs, item, 2)
        assert all(bool(own[name].all()) for name in own if name.endswith("mask"))
        (single,) = observe(adapter, own, [[Logit(item + 1)]], METHODS)
        got, want = attribute(trace, METHODS), attribute(single, METHODS)
        for method in METHODS:
            for source, rows in want[method].items():
                n = rows.shape[1]
                assert float(rows.abs().max()) > 0, (method, source)
                assert distance(got[method][source][:, :n], rows) <= 1e-9, (method, source)
                assert bool((got[method][source][:, n:] == 0).all()), (method, source)
