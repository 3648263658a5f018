"""Padding, batches, chunks, hooks and the state a DETR is left in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import distance
from PIL import Image
from tiny import picture, tiny_detr
from torch import Tensor
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.attribution.gae import Gae
from hetexp.attribution.methods import METHODS, attribute
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.targets import Logit

ALL = {**METHODS, "noised_total": Ours("pos", "total"), "gae_plain": Gae(normalise=False)}
del ALL["random"]
SIZES = [(64, 48), (48, 80), (64, 80), (37, 51)]


@pytest.fixture
def adapter() -> DetrAdapter:
    return DetrAdapter(tiny_detr(11, heads=4))


def pad(pictures: list[Tensor], height: int, width: int) -> dict[str, Tensor]:
    pixels = torch.zeros(len(pictures), 3, height, width, dtype=pictures[0].dtype)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.long)
    for row, p in enumerate(pictures):
        pixels[row, :, : p.shape[2], : p.shape[3]] = p[0]
        mask[row, : p.shape[2], : p.shape[3]] = 1
    return {"pixel_values": pixels, "pixel_mask": mask}


def inside(full: Tensor, alone: Tensor) -> Tensor:
    """The valid corner of padded relevance; everything else must be exactly 0."""
    h, w = alone.shape[1:]
    rest = full.clone()
    rest[:, :h, :w] = 0
    assert bool((rest == 0).all())
    return full[:, :h, :w]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("feature", DetrAdapter.odam_features)
def test_padded_input_has_the_relevance_of_the_unpadded(
    adapter: DetrAdapter, size: tuple[int, int], feature: str
) -> None:
    pixels = picture(*size, seed=4)
    targets = [[Logit(0, 1), Logit(2, 4)]]
    (alone,) = adapter.trace({"pixel_values": pixels}, targets, odam_feature=feature)
    (padded,) = adapter.trace(pad([pixels], 96, 112), targets, odam_feature=feature)
    assert padded.layouts["image"].shape == (6, 7)
    want, got = attribute(alone, ALL), attribute(padded, ALL)
    for method in ALL:
        off = distance(inside(got[method]["image"], want[method]["image"]), want[method]["image"])
        assert off <= 1e-9, method
    assert torch.allclose(alone.outputs["logits"], padded.outputs["logits"], rtol=0, atol=1e-11)
    assert torch.allclose(alone.outputs["boxes"], padded.outputs["boxes"], rtol=0, atol=1e-11)


def test_batch_equals_one_at_a_time(adapter: DetrAdapter) -> None:
    """Different sizes and different numbers of targets, none at all included."""
    pictures = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    targets = [[Logit(q % 3, q) for q in range(n)] for n in (3, 0, 1, 6)]
    together = adapter.trace(pad(pictures, 64, 80), targets)
    for pixels, wanted, trace in zip(pictures, targets, together, strict=True):
        (alone,) = adapter.trace({"pixel_values": pixels}, [wanted])
        assert trace.n_targets == len(wanted)
        want, got = attribute(alone, ALL), attribute(trace, ALL)
        for method in ALL:
            assert distance(inside(got[method]["image"], want[method]["image"]), want[method]["image"]) <= 1e-9


def test_detect_agrees_with_trace_and_with_the_class(adapter: DetrAdapter) -> None:
    pixels = picture(64, 48, seed=9)
    logits, boxes = adapter.detect({"pixel_values": pixels})
    (trace,) = adapter.trace({"pixel_values": pixels}, [[Logit(0, 0)]])
    own = adapter.model(pixel_values=pixels)
    assert torch.allclose(logits[0], trace.outputs["logits"], rtol=0, atol=1e-12)
    assert torch.allclose(logits, own.logits, rtol=0, atol=1e-11)
    assert torch.allclose(boxes, own.pred_boxes, rtol=0, atol=1e-11)
    assert not logits.requires_grad


def test_targets_without_a_query_mean_every_kept_one(adapter: DetrAdapter) -> None:
    pixels = picture(64, 48, seed=9)
    logits, _ = adapter.detect({"pixel_values": pixels})
    best = logits[0].softmax(-1)[:, :-1].max(-1)
    order = best.values.sort(descending=True).values
    adapter.keep = float(order[1:3].mean())  # between the second and the third
    kept = (best.values > adapter.keep).nonzero().flatten()
    assert len(kept) == 2
    (trace,) = adapter.trace({"pixel_values": pixels}, [[Logit()]])
    assert trace.outputs["queries"].tolist() == kept.tolist()
    assert trace.outputs["classes"].tolist() == best.indices[kept].tolist()
    assert torch.allclose(trace.outputs["scores"], best.values[kept])
    named = [Logit(int(best.indices[q]), int(q)) for q in kept]
    (explicit,) = adapter.trace({"pixel_values": pixels}, [named])
    got, want = (
        attribute(trace, {"a": Ours("abs")})["a"]["image"],
        attribute(explicit, {"a": Ours("abs")})["a"]["image"],
    )
    assert distance(got, want) <= 1e-12


def test_nothing_kept_gives_empty_maps(adapter: DetrAdapter) -> None:
    adapter.keep = 1.0
    (trace,) = adapter.trace({"pixel_values": picture(64, 48)}, [[Logit()]])
    for method, found in attribute(trace, METHODS).items():
        assert found["image"].shape == (0, 4, 3), method


@pytest.mark.parametrize("budget", [1, 200_000])
def test_a_small_byte_budget_changes_no_number(adapter: DetrAdapter, budget: int) -> None:
    pixels, targets = picture(64, 48, seed=5), [[Logit(q % 3, q) for q in range(6)]]
    (trace,) = adapter.trace({"pixel_values": pixels}, targets)
    want, got = attribute(trace, ALL), attribute(trace, ALL, byte_budget=budget)
    for method in ALL:
        assert distance(got[method]["image"], want[method]["image"]) <= 1e-11, method


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_detr(11)
    before = [(p.requires_grad, p.clone()) for p in model.parameters()]
    attention = model.config._attn_implementation
    DetrAdapter(model).trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]])
    for parameter, (wanted, value) in zip(model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert parameter.requires_grad == wanted
        assert torch.equal(parameter, value)
    assert any(p.requires_grad for p in model.parameters())
    assert hooks(model) == 0
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("part", ["encoder", "decoder", "class_labels_classifier"])
def test_an_error_inside_the_model_leaves_it_as_it_was(part: str) -> None:
    model = tiny_detr(11)
    wanted = [p.requires_grad for p in model.parameters()]
    attention = model.config._attn_implementation
    broken = model.class_labels_classifier if part.startswith("class") else getattr(model.model, part).layers[-1]

    def fail(module: torch.nn.Module, args: object) -> None:
        raise RuntimeError("deliberate")

    handle = broken.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="deliberate"):
        DetrAdapter(model).trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]])
    handle.remove()
    assert hooks(model) == 0
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert model.config._attn_implementation == attention


def test_the_trace_holds_no_graph(adapter: DetrAdapter) -> None:
    (trace,) = adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]])
    for step in trace.steps():
        for tensor in (step.probabilities, step.values, step.output_gradient):
            assert tensor.grad_fn is None
            assert not tensor.requires_grad
    for value in trace.outputs.values():
        assert value.grad_fn is None


def test_works_where_gradients_are_switched_off(adapter: DetrAdapter) -> None:
    inputs, targets = {"pixel_values": picture(64, 48)}, [[Logit(0, 0)]]
    (want,) = adapter.trace(inputs, targets)
    with torch.no_grad():
        (got,) = adapter.trace(inputs, targets)
    a, b = attribute(got, {"m": Ours("abs")})["m"]["image"], attribute(want, {"m": Ours("abs")})["m"]["image"]
    assert torch.equal(a, b)


@pytest.mark.parametrize("query", [-1, 6])
def test_missing_query(adapter: DetrAdapter, query: int) -> None:
    with pytest.raises(InputError, match=f"query {query} does not exist.*0 to 5"):
        adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, query)]])


def test_mask_that_is_no_rectangle(adapter: DetrAdapter) -> None:
    mask = torch.ones(1, 64, 48)
    mask[0, 10, 10] = 0
    with pytest.raises(InputError, match="one rectangle at the top left"):
        adapter.trace({"pixel_values": picture(64, 48), "pixel_mask": mask}, [[Logit(0, 0)]])


def test_unknown_odam_feature(adapter: DetrAdapter) -> None:
    with pytest.raises(ConfigError, match=r"'neck' is not known.*projection, backbone, encoder"):
        adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]], odam_feature="neck")


def test_prepare_pads_a_batch() -> None:
    processor = DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})
    adapter = DetrAdapter(tiny_detr(1), processor)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in ((96, 96, 3), (96, 120, 3))]
    batch = adapter.prepare(images)
    assert batch["pixel_values"].shape == (2, 3, 48, 60)
    assert batch["pixel_values"].dtype == torch.float64
    assert batch["pixel_mask"].flatten(1).sum(1).tolist() == [48 * 48, 48 * 60]
    own = processor(images=images, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], own["pixel_values"].double())
    assert torch.equal(batch["pixel_mask"], own["pixel_mask"])
    with pytest.raises(ConfigError, match="without an image processor"):
        DetrAdapter(tiny_detr(1)).prepare(images)


def test_autocast_reaches_the_frozen_backbone_alone() -> None:
    """Relevance moves by what the feature map loses in bfloat16, and everything with a gradient stays float32."""
    model, pixels = tiny_detr(2).float(), picture(64, 48).float()
    exact, rounded = DetrAdapter(model), DetrAdapter(model, autocast=torch.bfloat16)
    (want,), (got,) = (a.trace({"pixel_values": pixels}, [[Logit(0, 1)]]) for a in (exact, rounded))
    assert {step.output_gradient.dtype for step in got.steps()} == {torch.float32}
    features = got.features["image"].activation
    assert features.dtype == torch.float32
    off = distance(attribute(got, ALL)["ours_abs"]["image"], attribute(want, ALL)["ours_abs"]["image"])
    assert 1e-5 < off < 0.05
