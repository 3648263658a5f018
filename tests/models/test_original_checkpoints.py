"""DETR checkpoints of other makers: original .pth files, timm's backbone names, the dilated DC5 variants."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from hetexp.errors import CheckpointError
from hetexp.models.original_checkpoints import COCO_LABELS
from hetexp.models.registry import load_model

D, HEADS = 32, 8


def tiny(
    classes: int = 91, layer_type: str = "bottleneck", depths: tuple[int, ...] = (2, 1, 2, 3)
) -> DetrForObjectDetection:
    torch.manual_seed(3)
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 24, 32, 48],
        depths=list(depths),
        layer_type=layer_type,
        out_features=["stage4"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        d_model=D,
        num_queries=7,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=40,
        decoder_ffn_dim=56,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        num_labels=classes,
    )
    config._attn_implementation = "eager"
    model = DetrForObjectDetection(config).eval()
    with torch.no_grad():  # statistics that are not 0 and 1, or exchanged ones would go unseen
        for name, tensor in model.state_dict().items():
            if "normalization" in name:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        for parameter in model.model.encoder.parameters():
            parameter.normal_(std=0.2)
    return model


def block_name(name: str) -> str:
    """torchvision's name of what lies in one residual block."""
    if name.startswith("shortcut"):
        return name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    number = int(name.split(".")[1]) + 1
    kind = "conv" if "convolution" in name else "bn"
    return f"{kind}{number}.{name.rsplit('.', 1)[1]}"


def backbone_name(name: str) -> str:
    """torchvision's name of a native backbone tensor."""
    if name.startswith("embedder"):
        return ("conv1." if "convolution" in name else "bn1.") + name.rsplit(".", 1)[1]
    _, _, stage, _, block, rest = name.split(".", 5)
    return f"layer{int(stage) + 1}.{block}.{block_name(rest)}"


def original_state(model: DetrForObjectDetection) -> dict[str, Tensor]:
    """A native model's tensors under the names of DETR's authors, attention projections stacked."""
    out: dict[str, Tensor] = {}
    stacks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.backbone.model."):
            out["backbone.0.body." + backbone_name(name.removeprefix("model.backbone.model."))] = tensor
        elif found := re.fullmatch(r"model\.(\w+)\.layers\.(\d)\.(\w+_attn)\.([qkv])_proj\.(\w+)", name):
            part, layer, attention, head, kind = found.groups()
            theirs = "self_attn" if attention == "self_attn" else "multihead_attn"
            stacks.setdefault(f"transformer.{part}.layers.{layer}.{theirs}.in_proj_{kind}", {})[head] = tensor
        else:
            decoder = "decoder" in name
            for ours, theirs in {
                "encoder_attn_layer_norm": "norm2",
                "self_attn_layer_norm": "norm1",
                "final_layer_norm": "norm3" if decoder else "norm2",
                "encoder_attn": "multihead_attn",
                "o_proj": "out_proj",
                "mlp.fc": "linear",
                "decoder.layernorm": "decoder.norm",
                "class_labels_classifier": "class_embed",
                "bbox_predictor": "bbox_embed",
                "model.input_projection": "input_proj",
                "model.query_position_embeddings": "query_embed",
                "model.encoder": "transformer.encoder",
                "model.decoder": "transformer.decoder",
            }.items():
                name = name.replace(ours, theirs)
            out[name] = tensor
    return out | {name: torch.cat([parts[h] for h in "qkv"]) for name, parts in stacks.items()}


@pytest.fixture(scope="module")
def model() -> DetrForObjectDetection:
    return tiny()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(5))


def saved(path: Path, state: dict[str, Tensor], **more: object) -> Path:
    torch.save({"model": state, **more}, path)
    return path


@pytest.mark.parametrize("layer_type", ["bottleneck", "basic"])
def test_round_trip(tmp_path: Path, pixels: Tensor, layer_type: str) -> None:
    original = tiny(layer_type=layer_type)
    path = saved(tmp_path / "detr-r50-0000.pth", original_state(original))
    before = torch.get_rng_state()
    adapter = load_model("detr", path)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        expected, got = original(pixels), adapter.model(pixels)
    assert torch.equal(expected.logits, got.logits)
    assert torch.equal(expected.pred_boxes, got.pred_boxes)
    assert adapter.model.config.id2label == COCO_LABELS
    assert adapter.processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    traces = adapter.trace({"pixel_values": pixels}, [[]])
    assert [s.name for s in traces[0].steps()][-1] == "decoder.2.cross"
    assert load_model("detr", path, dtype=torch.float64).dtype == torch.float64


def test_names_are_those_of_torchs_own_transformer_layers(tmp_path: Path, model: DetrForObjectDetection) -> None:
    """DETR's layers carry torch's names and, without positions, compute what torch's layers do."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(D, HEADS, 40, batch_first=True).eval()
    decoder = nn.TransformerDecoderLayer(D, HEADS, 56, batch_first=True).eval()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        nn.init.normal_(parameter, std=0.3)
    state = original_state(model)
    state |= {f"transformer.encoder.layers.1.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"transformer.decoder.layers.2.{k}": v for k, v in decoder.state_dict().items()}
    loaded = load_model("detr", saved(tmp_path / "x.pth", state)).model.model
    image, queries = torch.randn(1, 9, D), torch.randn(1, 7, D)
    nothing = torch.zeros(1)
    with torch.no_grad():
        got = loaded.encoder.layers[1](image, attention_mask=None, spatial_position_embeddings=nothing)
        assert torch.allclose(got, encoder(image), atol=1e-5)
        got = loaded.decoder.layers[2](
            queries,
            attention_mask=None,
            spatial_position_embeddings=nothing,
            object_queries_position_embeddings=nothing,
            encoder_hidden_states=image,
        )
        assert torch.allclose(got, decoder(queries, image), atol=1e-5)


def test_coco_labels() -> None:
    assert len(COCO_LABELS) == 91
    assert sum(name == "N/A" for name in COCO_LABELS.values()) == 11
    for index, name in {1: "person", 11: "fire hydrant", 13: "stop sign", 44: "bottle", 90: "toothbrush"}.items():
        assert COCO_LABELS[index] == name


def test_other_numbers_of_classes_get_plain_labels(tmp_path: Path) -> None:
    adapter = load_model("detr", saved(tmp_path / "x.pth", original_state(tiny(classes=4))))
    assert adapter.labels == {i: f"LABEL_{i}" for i in range(4)}


def test_training_checkpoints_tell_heads_and_dilation(tmp_path: Path, model: DetrForObjectDetection) -> None:
    settings = argparse.Namespace(nheads=4, dilation=True)
    adapter = load_model("detr", saved(tmp_path / "x.pth", original_state(model), args=settings, epoch=3))
    assert adapter.model.config.encoder_attention_heads == 4
    assert adapter.model.config.dilation


def last_stage(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """torchvision's layer4 of a bottleneck ResNet with replace_stride_with_dilation, written out."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    for block, rate in ((0, 1), (1, 2), (2, 2)):
        at = f"backbone.0.body.layer4.{block}"
        y = norm(F.conv2d(x, state[f"{at}.conv1.weight"]), f"{at}.bn1").relu()
        y = norm(F.conv2d(y, state[f"{at}.conv2.weight"], padding=rate, dilation=rate), f"{at}.bn2").relu()
        y = norm(F.conv2d(y, state[f"{at}.conv3.weight"]), f"{at}.bn3")
        if block == 0:
            x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"]), f"{at}.downsample.1")
        x = (x + y).relu()
    return x


def test_dc5_is_dilated_as_in_the_original(tmp_path: Path, model: DetrForObjectDetection, pixels: Tensor) -> None:
    state = original_state(model)
    adapter = load_model("detr", saved(tmp_path / "detr-r50-dc5-f0fb7ef5.pth", state))
    body = adapter.model.model.backbone.model
    with torch.no_grad():
        below = body.embedder(pixels)
        for stage in body.encoder.stages[:3]:
            below = stage(below)
        got = body(pixels).feature_maps[-1]
        expected = last_stage(state, below)
    assert got.shape[-2:] == (6, 8)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
    (trace,) = adapter.trace({"pixel_values": pixels}, [[]])
    assert trace.layouts["image"].shape == (6, 8)


def test_a_native_folder_with_dilation_is_dilated(
    tmp_path: Path, model: DetrForObjectDetection, pixels: Tensor
) -> None:
    model.config.dilation = True
    model.save_pretrained(tmp_path / "dc5")
    model.config.dilation = False
    from_folder = load_model("detr", tmp_path / "dc5")
    from_file = load_model("detr", saved(tmp_path / "detr-dc5.pth", original_state(model)))
    with torch.no_grad():
        assert torch.equal(from_folder.model(pixels).logits, from_file.model(pixels).logits)


@pytest.mark.parametrize("dilation", [False, True])
def test_hub_checkpoints_made_with_timm(tmp_path: Path, pixels: Tensor, dilation: bool) -> None:
    """Folders as facebook/detr-resnet-50[-dc5] has them on its main branch: timm's backbone, older module names."""
    torch.manual_seed(1)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    resnet = ResNetConfig(
        depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512], out_features=["stage4"]
    )
    native = DetrConfig(backbone_config=resnet, num_labels=5, **sizes)
    native._attn_implementation = "eager"
    original = DetrForObjectDetection(native).eval()
    state = {}
    for name, tensor in original.state_dict().items():
        if name.startswith("model.backbone.model."):
            old = backbone_name(name.removeprefix("model.backbone.model."))
            name = f"model.backbone.conv_encoder.model.{old}"
        state[name.replace("o_proj", "out_proj").replace("mlp.fc", "fc")] = tensor.contiguous()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    labels = {str(i): f"LABEL_{i}" for i in range(5)}
    config = {"model_type": "detr", "backbone": "resnet18", "dilation": dilation, "id2label": labels, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model("detr", tmp_path).model
    if dilation:
        assert loaded.model.backbone.model(pixels).feature_maps[-1].shape[-2:] == (6, 8)
    else:
        with torch.no_grad():
            body, expected = loaded.model.backbone.model, original.model.backbone.model
            assert torch.equal(body(pixels).feature_maps[-1], expected(pixels).feature_maps[-1])
            assert torch.equal(loaded(pixels).logits, original(pixels).logits)
    config["backbone"] = "convnext_base"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'convnext_base' is not supported"):
        load_model("detr", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("class_embed.bias"), r"no original DETR file: it lacks class_embed.bias"),
        (lambda s: s.pop("bbox_embed.layers.1.bias"), "missing bbox_predictor.layers.1.bias"),
        (lambda s: s.pop("transformer.decoder.layers.1.self_attn.in_proj_bias"), "missing .*self_attn.k_proj.bias"),
        (lambda s: s.update({"mask_head.lay1.weight": torch.zeros(1)}), "unexpected mask_head.lay1.weight"),
        (lambda s: s.update({"transformer.encoder.norm.weight": torch.ones(D)}), "unexpected transformer.encoder.norm"),
        (lambda s: s.update({"class_embed.weight": torch.zeros(5, D)}), r"has shape \(5, 32\), expected \(92, 32\)"),
        (lambda s: s.update({"input_proj.weight": torch.zeros(30, 48, 1, 1)}), "8 attention heads do not divide"),
        (lambda s: s.update({"epoch": 3}), "no table of tensors"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, model: DetrForObjectDetection, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = original_state(model)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load_model("detr", saved(tmp_path / "x.pth", state))


def test_unreadable_files_are_refused(tmp_path: Path, model: DetrForObjectDetection) -> None:
    path = saved(tmp_path / "x.pth", original_state(model))
    content = path.read_bytes()
    for damaged in (content[:1000], content[: len(content) // 2], b"", b"no checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read as a PyTorch checkpoint"):
            load_model("detr", path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_model("detr", path)
    with pytest.raises(CheckpointError, match="is no folder"):
        load_model("lxmert", path)
    with pytest.raises(CheckpointError, match=r"original \.pth or \.pt file"):
        load_model("detr", tmp_path / "gone.pth")


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, model: DetrForObjectDetection) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    path = saved(tmp_path / "x.pth", original_state(model), extra=Harmful())
    with pytest.raises(CheckpointError, match="refused and nothing of it was run"):
        load_model("detr", path)
    assert not (tmp_path / "harmed").exists()
