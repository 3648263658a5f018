"""Padding, batches, chunks, hooks and the state a DETR is left in."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from compare import distance
from PIL import Image
from tiny import picture, tiny_detr
from torch import Tensor
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.attribution.attribute import attribute, build_methods, observe, pictures
from hetexp.attribution.gae import Gae
from hetexp.attribution.integrated_gradients import IntegratedGradients
from hetexp.attribution.method import Method
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.attribution.registry import METHODS
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.models.trace import Target
from hetexp.targets import BoxSide, Logit

ALL: dict[str, Method] = {
    **build_methods(n for n, r in METHODS.items() if not r.control and n != "integrated_gradients"),
    "integrated_gradients": IntegratedGradients(steps=2),
    "noised_total": Ours("pos", "total"),
    "gae_plain": Gae(normalise=False),
}
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
@pytest.mark.parametrize("feature", DetrAdapter.feature_names)
def test_padded_input_has_the_relevance_of_the_unpadded(
    adapter: DetrAdapter, size: tuple[int, int], feature: str
) -> None:
    pixels = picture(*size, seed=4)
    targets: list[list[Target]] = [[Logit(0, 1), Logit(2, 4), BoxSide("top", 4)]]
    methods = {**ALL, "odam": Odam(feature)}
    (alone,) = observe(adapter, {"pixel_values": pixels}, targets, methods)
    (padded,) = observe(adapter, pad([pixels], 96, 112), targets, methods)
    assert padded.layouts["image"].shape == (6, 7)
    assert padded.layouts["image"].grid == alone.layouts["image"].shape
    assert padded.layouts["image"].extent == alone.layouts["image"].extent == size
    want, got = pictures(alone, attribute(alone, methods)), pictures(padded, attribute(padded, methods))
    for method in methods:
        off = distance(inside(got[method]["image"], want[method]["image"]), want[method]["image"])
        assert off <= 1e-9, method
    assert torch.allclose(alone.outputs["logits"], padded.outputs["logits"], rtol=0, atol=1e-11)
    boxes, padded_boxes = (trace.outputs["detections"].boxes for trace in (alone, padded))
    assert torch.allclose(boxes, padded_boxes, rtol=0, atol=1e-11)


def test_batch_equals_one_at_a_time(adapter: DetrAdapter) -> None:
    """Different sizes and different numbers of targets, none at all included."""
    images = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    targets: list[list[Target]] = [[Logit(q % 3, q) for q in range(n)] for n in (3, 0, 1, 6)]
    together = observe(adapter, pad(images, 64, 80), targets, ALL)
    for pixels, wanted, trace in zip(images, targets, together, strict=True):
        (alone,) = observe(adapter, {"pixel_values": pixels}, [wanted], ALL)
        assert trace.n_targets == len(wanted)
        assert trace.targets == tuple(wanted)
        want, got = pictures(alone, attribute(alone, ALL)), pictures(trace, attribute(trace, ALL))
        for method in ALL:
            assert distance(inside(got[method]["image"], want[method]["image"]), want[method]["image"]) <= 1e-9


def test_detect_agrees_with_trace_and_with_the_class(adapter: DetrAdapter) -> None:
    pixels = picture(64, 48, seed=9)
    (found,) = adapter.detect({"pixel_values": pixels})
    (trace,) = adapter.trace({"pixel_values": pixels}, [[Logit(0, 0)]])
    own = adapter.model(pixel_values=pixels)
    seen = trace.outputs["detections"]
    for name in ("logits", "scores", "labels", "boxes"):
        assert torch.allclose(getattr(found, name), getattr(seen, name), rtol=0, atol=1e-12), name
    assert torch.allclose(trace.outputs["logits"], own.logits[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.logits, own.logits[0, :, :-1], rtol=0, atol=1e-11)
    assert torch.allclose(found.boxes, own.pred_boxes[0], rtol=0, atol=1e-11)
    best = own.logits[0].softmax(-1)[:, :-1].max(-1)
    assert torch.allclose(found.scores, best.values, rtol=0, atol=1e-11)
    assert torch.equal(found.labels, best.indices)
    assert not any(getattr(found, name).requires_grad for name in ("logits", "scores", "boxes"))


def test_detect_pads_as_trace_does(adapter: DetrAdapter) -> None:
    pictures = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    for pixels, found in zip(pictures, adapter.detect(pad(pictures, 64, 80)), strict=True):
        (alone,) = adapter.detect({"pixel_values": pixels})
        assert torch.allclose(found.logits, alone.logits, rtol=0, atol=1e-11)
        assert torch.allclose(found.boxes, alone.boxes, rtol=0, atol=1e-11)


def test_targets_without_a_query_mean_every_kept_one(adapter: DetrAdapter) -> None:
    pixels = picture(64, 48, seed=9)
    (found,) = adapter.detect({"pixel_values": pixels})
    order = found.scores.sort(descending=True).values
    adapter.score_threshold = float(order[1:3].mean())  # between the second and the third
    kept = (found.scores > adapter.score_threshold).nonzero().flatten()
    assert len(kept) == 2
    (trace,) = adapter.trace({"pixel_values": pixels}, [[Logit()]])
    assert trace.tokens.tolist() == kept.tolist()
    assert trace.targets == (Logit(), Logit())
    named: list[Target] = [Logit(int(found.labels[q]), int(q)) for q in kept]
    (explicit,) = adapter.trace({"pixel_values": pixels}, [named])
    got, want = (
        attribute(trace, {"a": Ours("abs")})["a"]["image"],
        attribute(explicit, {"a": Ours("abs")})["a"]["image"],
    )
    assert distance(got, want) <= 1e-12


def test_nothing_kept_gives_empty_maps(adapter: DetrAdapter) -> None:
    adapter.score_threshold = 1.0
    methods = build_methods(name for name in METHODS if name != "integrated_gradients")
    (trace,) = observe(adapter, {"pixel_values": picture(64, 48)}, [[Logit()]], methods)
    for method, found in pictures(trace, attribute(trace, methods)).items():
        assert found["image"].shape == (0, 4, 3), method


@pytest.mark.parametrize("budget", [1, 200_000])
def test_a_small_byte_budget_changes_no_number(adapter: DetrAdapter, budget: int) -> None:
    targets: list[list[Target]] = [[Logit(q % 3, q) for q in range(6)]]
    (trace,) = observe(adapter, {"pixel_values": picture(64, 48, seed=5)}, targets, ALL)
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
    (trace,) = adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]], features=adapter.feature_names)
    found = trace.outputs["detections"]
    tensors = [trace.outputs["logits"], found.logits, found.scores, found.boxes]
    for step in trace.steps():
        tensors += [step.probabilities, step.values, step.output_gradient]
    for by_source in trace.features.values():
        tensors += [by_source["image"].activation, by_source["image"].gradient]
    for tensor in tensors:
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(
    adapter: DetrAdapter, switch: Callable[[], AbstractContextManager[None]]
) -> None:
    inputs = {"pixel_values": picture(64, 48)}
    targets: list[list[Target]] = [[Logit(0, 0), BoxSide("left", 0)]]
    (want,) = adapter.trace(inputs, targets)
    with switch():
        (got,) = adapter.trace(inputs, targets)
        (inside_alone,) = adapter.trace({"pixel_values": picture(64, 48)}, targets)  # the input too was made inside
    a, b = attribute(got, {"m": Ours("abs")})["m"]["image"], attribute(want, {"m": Ours("abs")})["m"]["image"]
    assert torch.equal(a, b)
    assert torch.equal(attribute(inside_alone, {"m": Ours("abs")})["m"]["image"], b)


def test_pixels_without_a_batch_axis(adapter: DetrAdapter) -> None:
    with pytest.raises(InputError, match=r"must be \[B, 3, H, W\], got \[3, 64, 48\]: add an axis"):
        adapter.trace({"pixel_values": picture(64, 48)[0]}, [[Logit(0, 0)]])


@pytest.mark.parametrize("query", [-1, 6])
def test_missing_query(adapter: DetrAdapter, query: int) -> None:
    with pytest.raises(InputError, match=f"query {query} does not exist.*0 to 5"):
        adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, query)]])


def test_mask_that_is_no_rectangle(adapter: DetrAdapter) -> None:
    mask = torch.ones(1, 64, 48)
    mask[0, 10, 10] = 0
    with pytest.raises(InputError, match="one rectangle at the top left"):
        adapter.trace({"pixel_values": picture(64, 48), "pixel_mask": mask}, [[Logit(0, 0)]])


def test_unknown_feature(adapter: DetrAdapter) -> None:
    with pytest.raises(ConfigError, match=r"'neck' is not known.*default, projection, backbone, encoder"):
        adapter.trace({"pixel_values": picture(64, 48)}, [[Logit(0, 0)]], features=["encoder", "neck"])


def test_unknown_autocast() -> None:
    with pytest.raises(ConfigError, match="autocast='int8' must be bfloat16 or float16, or null"):
        DetrAdapter(tiny_detr(1), autocast="int8")


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_preparation_tells_what_decides_relevance(autocast: str | None) -> None:
    processor = DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})
    told = DetrAdapter(tiny_detr(1), processor, score_threshold=0.7, autocast=autocast).preparation
    assert json.loads(json.dumps(told)) == told
    assert told["autocast"] == autocast
    assert told["score_threshold"] == 0.7
    assert json.loads(told["processor"])["size"] == {"shortest_edge": 48, "longest_edge": 80}
    assert DetrAdapter(tiny_detr(1)).preparation["processor"] is None


def test_prepare_pads_a_batch() -> None:
    processor = DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})
    adapter = DetrAdapter(tiny_detr(1), processor)
    rng = np.random.default_rng(0)
    sides = [(96, 96, 3), (96, 120, 3)]
    images = [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in sides]
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
    exact, rounded = DetrAdapter(model), DetrAdapter(model, autocast="bfloat16")
    (want,), (got,) = (observe(a, {"pixel_values": pixels}, [[Logit(0, 1)]], ALL) for a in (exact, rounded))
    assert {step.output_gradient.dtype for step in got.steps()} == {torch.float32}
    features = got.features["default"]["image"].activation
    assert features.dtype == torch.float32
    off = distance(attribute(got, ALL)["ours_abs"]["image"], attribute(want, ALL)["ours_abs"]["image"])
    assert 1e-5 < off < 0.05
