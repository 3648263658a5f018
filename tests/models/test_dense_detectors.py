"""DAB-DETR, Table Transformer and YOLOS: every method against maps that the library itself returns, and loading."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from compare import distance, tolerance
from own_checkpoints import category_names, check_photograph, check_tables
from safetensors.torch import save_file
from test_original_checkpoints import backbone_name
from tiny import lively, picture, tiny_backbone
from torch import Tensor
from transformers import (
    DabDetrConfig,
    DabDetrForObjectDetection,
    PreTrainedModel,
    ResNetConfig,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
    YolosConfig,
    YolosForObjectDetection,
)

import hetexp
from hetexp.errors import InputError
from hetexp.models.dab_detr import DabDetrAdapter
from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.table_transformer import TableTransformerAdapter
from hetexp.models.yolos import YolosAdapter
from hetexp.targets import BoxSide, Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]  # the others have twins of their own
QUERIES, CLASSES, PATCH = 6, 5, 16
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 4}
COMMON = {**LAYERS, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": QUERIES, "use_timm_backbone": False}
RESNET18 = ResNetConfig(
    depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512], out_features=["stage4"]
)


def dab(resnet: ResNetConfig, **more: Any) -> PreTrainedModel:
    return DabDetrForObjectDetection(DabDetrConfig(backbone_config=resnet, hidden_size=16, **COMMON, **more))


def table(resnet: ResNetConfig, **more: Any) -> PreTrainedModel:
    return TableTransformerForObjectDetection(
        TableTransformerConfig(backbone_config=resnet, d_model=16, **COMMON, **more)
    )


def yolos(resnet: ResNetConfig, **more: Any) -> PreTrainedModel:
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 96],
        patch_size=PATCH,
        num_detection_tokens=QUERIES,
        use_mid_position_embeddings=True,
        **more,
    )
    return YolosForObjectDetection(config)


@dataclass
class Case:
    """An architecture: how to make a small one, its adapter, and the module whose output ODAM reads."""

    make: Callable[..., PreTrainedModel]
    adapter: type[ObservedDetector]
    feature: Callable[[Any], torch.nn.Module]

    def model(self, seed: int, names: list[str] | None = None, resnet: ResNetConfig | None = None) -> Any:
        torch.manual_seed(seed)
        labels = dict(enumerate(names or [f"c{i}" for i in range(CLASSES)]))
        model = self.make(resnet or tiny_backbone(), id2label=labels, attn_implementation="eager")
        return lively(model, seed, 0.7)


CASES = {
    "dab": Case(dab, DabDetrAdapter, lambda m: m.model.input_projection),
    "table": Case(table, TableTransformerAdapter, lambda m: m.model.input_projection),
    "yolos": Case(yolos, YolosAdapter, lambda m: m.vit.embeddings),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """DAB-DETR rounds its softmax to single precision, where the last bit decides what 1e-9 could tell."""

    def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return x.softmax(dim)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


def forward(model: Any, pixels: Tensor, **more: Any) -> Any:
    """The class's own forward pass; a DAB-DETR in double precision needs its queries in that type."""

    def cast(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {k: v.to(pixels.dtype) if k == "inputs_embeds" else v for k, v in kwargs.items()}

    if not hasattr(model, "model"):
        return model(pixel_values=pixels, **more)
    handle = model.model.decoder.register_forward_pre_hook(cast, with_kwargs=True)
    try:
        return model(pixel_values=pixels, **more)
    finally:
        handle.remove()


def run(case: Case, model: Any, pixels: Tensor, query: int, y: Callable[[Tensor], Tensor], of: str) -> oracle.Run:
    """One forward and one full backward pass for one query, down to the attention weights that the class returns."""
    kept: list[Tensor] = []

    def keep(module: Any, args: Any, output: Tensor) -> None:
        kept.append(output)

    handle = case.feature(model).register_forward_hook(keep)
    try:
        out = forward(model, pixels, output_attentions=True)
    finally:
        handle.remove()
    if "attentions" in out:
        links = [("tokens", "tokens", m) for m in out.attentions]
        encoders = 0
    else:
        pairs = zip(out.decoder_attentions, out.cross_attentions, strict=True)
        links = [("image", "image", m) for m in out.encoder_attentions]
        encoders = len(links)
        links += [x for a, c in pairs for x in (("queries", "queries", a), ("queries", "image", c))]
    scalar = y({"logits": out.logits, "box": out.pred_boxes}[of][0, query])
    gradients = torch.autograd.grad(scalar, [kept[0], *(m for _, _, m in links)], allow_unused=True)
    found = [torch.zeros_like(links[i - 1][2]) if g is None else g for i, g in enumerate(gradients)]
    steps = [oracle.Seen(q, k, m.detach()[0], g[0]) for (q, k, m), g in zip(links, found[1:], strict=True)]
    feature = [(x.flatten(2).transpose(1, 2) if x.ndim == 4 else x)[0] for x in (kept[0].detach(), found[0])]
    stream = "image" if encoders else "tokens"
    n = len(feature[0])
    return oracle.Run(
        encoder=steps[:encoders],
        fusion=[[step] for step in steps[encoders:]],
        features={stream: (feature[0], feature[1])},
        sizes={"image": n, "queries": QUERIES} if encoders else {"tokens": n},
        sources=(stream,),
        readout="queries" if encoders else "tokens",
        token=query if encoders else n - QUERIES + query,
    )


def wanted(run: oracle.Run, method: str) -> Tensor:
    """Relevance of the image: of the joint stream the patches alone."""
    ((stream, found),) = oracle.METHODS[method](run).items()
    return found if stream == "image" else found[1:-QUERIES]


@pytest.mark.usefixtures("exact_softmax")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [(64, 48), (34, 82)])
def test_every_method_equals_the_oracle(case: Case, size: tuple[int, int], dtype: torch.dtype) -> None:
    model, pixels = case.model(1), picture(*size, seed=7)
    runs = [run(case, model, pixels, q, Logit(q % CLASSES), "logits") for q in range(QUERIES)]
    adapter = case.adapter(copy.deepcopy(model).to(dtype))
    targets = [Logit(q % CLASSES, query=q) for q in range(QUERIES)]
    found = hetexp.explain(adapter, {"pixel_values": pixels.to(dtype)}, METHODS, targets)
    assert [row.query for row in found.rows] == list(range(QUERIES))
    for method in METHODS:
        want = torch.stack([wanted(r, method) for r in runs])
        has_none = method == "homologous" and not runs[0].encoder
        assert bool((want != 0).any()) != has_none
        assert distance(found.tokens(method, "image"), want) <= tolerance(method, dtype), method


def test_the_softmax_that_dab_detr_rounds_is_its_own() -> None:
    case = CASES["dab"]
    model, pixels = case.model(1), picture(64, 48, seed=7)
    one = run(case, model, pixels, 2, Logit(1), "logits")
    found = hetexp.explain(case.adapter(model), {"pixel_values": pixels}, METHODS, Logit(1, query=2))
    assert torch.equal(one.fusion[-1][0].map, one.fusion[-1][0].map.float().double())
    for method in METHODS:
        assert distance(found.tokens(method, "image"), wanted(one, method)[None]) <= 1e-5, method


@pytest.mark.usefixtures("exact_softmax")
def test_box_targets_equal_the_oracle(case: Case) -> None:
    model, pixels = case.model(2), picture(64, 48, seed=3)
    one = run(case, model, pixels, 2, BoxSide("top"), "box")
    found = hetexp.explain(case.adapter(model), {"pixel_values": pixels}, METHODS, BoxSide("top", query=2))
    for method in METHODS:
        assert distance(found.tokens(method, "image"), wanted(one, method)[None]) <= 1e-9, method


@pytest.mark.usefixtures("exact_softmax")
def test_detections_are_the_class_s_own(case: Case) -> None:
    model, pixels = case.model(3), picture(64, 48, seed=4)
    adapter = case.adapter(model)
    (found,) = adapter.detect({"pixel_values": pixels})
    own = forward(model, pixels)
    (trace,) = adapter.trace({"pixel_values": pixels}, [[Logit(0, query=1)]])
    assert torch.allclose(trace.outputs["logits"], own.logits[0], rtol=0, atol=1e-11)
    logits = own.logits[0, :, :-1] if adapter.has_no_object else own.logits[0]
    scores = own.logits[0].softmax(-1)[:, :-1] if adapter.has_no_object else logits.sigmoid()
    assert torch.allclose(found.logits, logits, rtol=0, atol=1e-11)
    assert torch.allclose(found.boxes, own.pred_boxes[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.scores, scores.amax(-1), rtol=0, atol=1e-11)


def test_a_padded_batch_equals_single_images(case: Case) -> None:
    adapter = case.adapter(case.model(4), score_threshold=0)
    images = [picture(48, 64, seed=5), picture(80, 50, seed=6)]
    pixels, mask = torch.zeros(2, 3, 82, 98, dtype=torch.float64), torch.zeros(2, 82, 98)
    for row, image in enumerate(images):
        pixels[row, :, : image.shape[2], : image.shape[3]] = image[0]
        mask[row, : image.shape[2], : image.shape[3]] = 1
    together = hetexp.explain(adapter, {"pixel_values": pixels, "pixel_mask": mask}, METHODS)
    rows, columns = (82 // PATCH, 98 // PATCH) if case.make is yolos else (6, 7)  # strides round up, patches down
    for method in METHODS:
        assert together[method]["image"].shape == (2 * QUERIES, rows, columns)
        assert bool((together[method]["image"][:QUERIES, 3:] == 0).all())
        for item, image in enumerate(images):
            alone = hetexp.explain(adapter, {"pixel_values": image}, METHODS)[method]["image"]
            # sizes run apart, so only the batch's own order of sums differs
            assert distance(together.item(item)[method]["image"], alone) <= 1e-9, method


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(case: Case, fails: bool) -> None:
    model, pixels = case.model(5), picture(64, 48, seed=6)
    adapter = case.adapter(model)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    before = forward(model, pixels).logits
    if fails:
        with pytest.raises(InputError, match="class 99"):
            adapter.trace({"pixel_values": pixels}, [[Logit(99, query=0)]])
        bad = pixels.new_zeros(1, 4, 64, 48)
        with pytest.raises((RuntimeError, ValueError)):
            adapter.trace({"pixel_values": bad}, [[Logit(0, query=0)]])
    else:
        adapter.trace({"pixel_values": pixels}, [[Logit(0, query=0)]], features=["default"])
    assert torch.equal(forward(model, pixels).logits, before)
    assert model.config._attn_implementation == "eager"
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [p.requires_grad for p in model.parameters()] == grads


@pytest.fixture
def checkpoint(case: Case, tmp_path: Path) -> Path:
    """A small random one with the embedded scenes' classes."""
    folder = tmp_path / "checkpoint"
    case.model(5, category_names()).float().save_pretrained(folder)
    case.adapter.processor_class(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    return folder


def test_tables_by_checkpoint_alone(checkpoint: Path, tmp_path: Path) -> None:
    check_tables(checkpoint, tmp_path)


@pytest.mark.parametrize("name", ["dab", "table"])
def test_a_backbone_under_timm_s_names_is_read(name: str, tmp_path: Path) -> None:
    """As the hub's checkpoints have it: a timm backbone in the configuration, torchvision's names in the weights."""
    case = CASES[name]
    model = case.model(6, resnet=RESNET18).float()
    state = {}
    for key, tensor in model.state_dict().items():
        prefix = f"{case.adapter.resnet}."
        state[prefix + backbone_name(key.removeprefix(prefix)) if key.startswith(prefix) else key] = tensor.clone()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in model.config.to_dict().items() if k != "backbone_config"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"backbone": "resnet18", "use_timm_backbone": True}))
    loaded = hetexp.load_model(tmp_path)
    assert isinstance(loaded, case.adapter)
    pixels = picture(64, 64, seed=1, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded.model(pixel_values=pixels).logits, model(pixel_values=pixels).logits)


def test_explaining_a_photograph_by_checkpoint_alone(checkpoint: Path, tmp_path: Path) -> None:
    check_photograph(checkpoint, tmp_path)


def test_a_batch_has_more_than_one_precision(case: Case) -> None:
    """The convolutions alone run in half precision."""
    adapter = case.adapter(case.model(7).float(), autocast="bfloat16")
    (trace,) = adapter.trace({"pixel_values": picture(64, 48, dtype=torch.float32)}, [[Logit(0, query=1)]])
    assert {step.values.dtype for step in trace.steps()} == {torch.float32}
