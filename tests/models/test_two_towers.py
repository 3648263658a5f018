"""CLIP and SigLIP: every method against the dense oracle of each tower, padded texts, and whole batches."""

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
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

import hetexp
from hetexp.errors import InputError
from hetexp.models.two_towers import ClipAdapter, SiglipAdapter, TwoTowers
from hetexp.targets import Difference, Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]
LAYERS, END = TOWER["num_hidden_layers"], 29
TEXT: dict[str, Any] = {
    **TOWER,
    "vocab_size": 30,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {**TOWER, "image_size": 32, "patch_size": 8}


def clip() -> Any:
    torch.manual_seed(0)
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8, attn_implementation="eager")
    return lively(CLIPModel(config))


def siglip() -> Any:
    torch.manual_seed(0)
    config = SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=VISION)
    config._attn_implementation = "eager"
    return lively(SiglipModel(config))


def inputs_of(texts: int = 3, images: int = 2) -> dict[str, Tensor]:
    ids = torch.randint(2, END, (texts, 6), generator=torch.Generator().manual_seed(3))
    ids[:, -1] = END
    return {"input_ids": ids, "pixel_values": torch.cat([picture(32, 32, i) for i in range(images)])}


def towers(model: Any, inputs: dict[str, Tensor], target: Logit) -> tuple[oracle.Run, oracle.Run]:
    """Runs of the text and of the picture, either alone with the target's pair."""
    pooled = isinstance(model, SiglipModel)
    pair = {"input_ids": inputs["input_ids"][[target.index]], "pixel_values": inputs["pixel_values"][[target.query]]}
    vision, text = model.vision_model.encoder.layers[0], model.text_model.encoder.layers[0]

    def run(links: list[tuple[str, str]], layers: dict[str, Any], readout: str, token: int) -> oracle.Run:
        others = [("other", "other")] * LAYERS
        of_image = "image" in layers
        pool = [("probe", "image") if of_image else ("other", "other")] if pooled else []
        order = [*links, *pool, *others] if of_image else [*others, *pool, *links]
        found = run_mixture(lambda: model(**pair).logits_per_image[0, 0], order, 0, layers, readout, token)
        steps = [step for group in found.fusion for step in group if step.query != "other"]
        found.encoder = [step for step in steps if step.is_self]
        found.fusion = [[step] for step in steps if not step.is_self]
        found.sizes.pop("other", None)
        return found

    return (
        run([("text", "text")] * LAYERS, {"text": text}, "text", 5),
        run([("image", "image")] * LAYERS, {"image": vision}, "probe" if pooled else "image", 0),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("build", "adapter"), [(clip, ClipAdapter), (siglip, SiglipAdapter)], ids=["clip", "siglip"])
def test_every_method_equals_the_oracle(build: Any, adapter: type[TwoTowers], dtype: torch.dtype) -> None:
    model, inputs = build(), inputs_of()
    targets = [Logit(2, query=1), Logit(0, query=0), Logit(2, query=0)]
    before = model(**inputs).logits_per_image
    runs = [towers(model, inputs, target) for target in targets]
    wrapped = adapter(copy.deepcopy(model).to(dtype))
    found = hetexp.explain(wrapped, inputs, METHODS, targets)
    assert found.kind == "similarity"
    of_row = before.softmax(1) if adapter is ClipAdapter else before.sigmoid()
    assert torch.allclose(found.scores, of_row.amax(1)[[1, 0, 0]].float(), atol=1e-4)
    assert [row.query for row in found.rows] == [1, 0, 0]
    for method in METHODS:
        text = torch.stack([oracle.METHODS[method](run)["text"] for run, _ in runs])
        image = torch.stack([oracle.METHODS[method](run)["image"] for _, run in runs])
        for got, want in (
            (found[method]["text"], text),
            (found.tokens(method, "image"), image[:, adapter.before :]),
        ):
            assert float(want.abs().max()) > 0, method
            assert distance(got, want) <= tolerance(method, dtype), method
        assert found[method]["image"].shape == (3, 4, 4)
    assert torch.equal(model(**inputs).logits_per_image, before)
    assert "forward" not in vars(wrapped.model.vision_model)
    if adapter is SiglipAdapter:
        assert "forward" not in vars(wrapped.model.vision_model.head.attention)


@pytest.mark.parametrize("masked", [True, False])
def test_padded_texts_of_clip_equal_single_ones(masked: bool) -> None:
    adapter, inputs = ClipAdapter(clip()), inputs_of()
    inputs["input_ids"][0, 3:] = torch.tensor([END, 0, 0])
    if masked:
        inputs["attention_mask"] = torch.ones(3, 6).long()
        inputs["attention_mask"][0, 4:] = 0
    found = hetexp.explain(adapter, inputs, METHODS, Logit(0, query=1))
    alone = {"input_ids": inputs["input_ids"][:1, :4], "pixel_values": inputs["pixel_values"][1:]}
    want = hetexp.explain(adapter, alone, METHODS, Logit(0, query=0))
    for method in METHODS:
        assert distance(found[method]["text"][:, :4], want[method]["text"]) <= 1e-9, method
        assert bool((found[method]["text"][:, 4:] == 0).all())
        assert distance(found[method]["image"], want[method]["image"]) <= 1e-9, method


def test_a_masked_text_of_siglip_is_read_from_its_last_token() -> None:
    adapter, inputs = SiglipAdapter(siglip()), inputs_of()
    inputs["attention_mask"] = torch.ones(3, 6).long()
    inputs["attention_mask"][0, 3:] = 0
    found = hetexp.explain(adapter, inputs, METHODS, Logit(0, query=1))
    for method in METHODS:
        assert bool((found[method]["text"][:, 3:] == 0).all())
    assert float(found["ours_abs"]["text"].max()) > 0


def test_targets_of_whole_batches() -> None:
    model, inputs = clip(), inputs_of()
    adapter = ClipAdapter(model)
    found = hetexp.explain(adapter, inputs, ["ours_abs"])
    best = model(**inputs).logits_per_image.argmax(1).tolist()
    want = hetexp.explain(adapter, inputs, ["ours_abs"], [Logit(best[0], query=0), Logit(best[1], query=1)])
    assert torch.equal(found["ours_abs"]["text"], want["ours_abs"]["text"])
    assert [row.item for row in found.rows] == [0, 1]
    with pytest.raises(InputError, match="several texts"):
        hetexp.explain(adapter, inputs, ["ours_abs"], Difference(0, 1, query=0))
    with pytest.raises(InputError, match="image 2"):
        hetexp.explain(adapter, inputs, ["ours_abs"], Logit(0, query=2))
    with pytest.raises(InputError, match="class 3"):
        hetexp.explain(adapter, inputs, ["ours_abs"], Logit(3, query=0))


@pytest.mark.parametrize(("build", "adapter"), [(clip, ClipAdapter), (siglip, SiglipAdapter)], ids=["clip", "siglip"])
def test_attention_implementations_agree(build: Any, adapter: type[TwoTowers]) -> None:
    model, inputs = build(), inputs_of()
    want = hetexp.explain(adapter(model), inputs, METHODS, Logit(1, query=0))
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    found = hetexp.explain(adapter(other), inputs, METHODS, Logit(1, query=0))
    for method in METHODS:
        for source in ("text", "image"):
            assert distance(found[method][source], want[method][source]) <= 1e-9, method
    assert other.vision_model.config._attn_implementation == "sdpa"
