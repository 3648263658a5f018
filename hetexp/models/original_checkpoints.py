"""Checkpoints of the DETR family that the native classes do not read by themselves.

Original `.pth` files of DETR's authors, backbones under torchvision's names (as in hub checkpoints made with timm), and
the dilated last stage of the DC5 variants.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, PretrainedConfig, ResNetConfig

from hetexp.errors import CheckpointError, some

# COCO's category ids 0..90 in order; "-" marks ids that were never used.
_COCO = """
-|person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|-|stop sign|parking meter|
bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|-|backpack|umbrella|-|-|handbag|tie|suitcase|frisbee|
skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|-|wine glass|
cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|
potted plant|bed|-|dining table|-|-|toilet|-|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|
refrigerator|-|book|clock|vase|scissors|teddy bear|hair drier|toothbrush
"""
COCO_LABELS = {i: "N/A" if n == "-" else n for i, n in enumerate(_COCO.replace("\n", "").split("|"))}

HEADS = 8  # of every released DETR; a training checkpoint says its own number
_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_PARTS = {
    "conv1": "layer.0.convolution",
    "bn1": "layer.0.normalization",
    "conv2": "layer.1.convolution",
    "bn2": "layer.1.normalization",
    "conv3": "layer.2.convolution",
    "bn3": "layer.2.normalization",
    "downsample.0": "shortcut.convolution",
    "downsample.1": "shortcut.normalization",
}
_STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
# Beyond the backbone; the left sides are whole prefixes of tensor names.
_RENAMES = {
    r"transformer\.(en|de)coder\.layers\.(\d+)\.self_attn\.out_proj\.": r"model.\1coder.layers.\2.self_attn.o_proj.",
    r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.out_proj\.": r"model.decoder.layers.\1.encoder_attn.o_proj.",
    r"transformer\.(en|de)coder\.layers\.(\d+)\.linear([12])\.": r"model.\1coder.layers.\2.mlp.fc\3.",
    r"transformer\.(en|de)coder\.layers\.(\d+)\.norm1\.": r"model.\1coder.layers.\2.self_attn_layer_norm.",
    r"transformer\.encoder\.layers\.(\d+)\.norm2\.": r"model.encoder.layers.\1.final_layer_norm.",
    r"transformer\.decoder\.layers\.(\d+)\.norm2\.": r"model.decoder.layers.\1.encoder_attn_layer_norm.",
    r"transformer\.decoder\.layers\.(\d+)\.norm3\.": r"model.decoder.layers.\1.final_layer_norm.",
    r"transformer\.decoder\.norm\.": "model.decoder.layernorm.",
    r"input_proj\.": "model.input_projection.",
    r"query_embed\.": "model.query_position_embeddings.",
    r"class_embed\.": "class_labels_classifier.",
    r"bbox_embed\.layers\.": "bbox_predictor.layers.",
}
_STACKED = re.compile(
    r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(self_attn|multihead_attn)\.in_proj_(weight|bias)"
)


def backbone_renames(prefix: str, native: str) -> dict[str, str]:
    """Pattern -> replacement that turns torchvision's names into the native ResNet's.

    Args:
        prefix: of torchvision's names, a pattern.
        native: name of the ResNet in the model.
    """
    renames = {rf"^{prefix}{re.escape(old)}\.": f"{native}.{new}." for old, new in _STEM.items()}
    for stage in range(4):
        for old, new in _PARTS.items():
            pattern = rf"^{prefix}layer{stage + 1}\.(\d+)\.{re.escape(old)}\."
            renames[pattern] = rf"{native}.encoder.stages.{stage}.layers.\1.{new}."
    return renames


def native_backbone(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with timm's ResNet replaced by the native one, which computes the same.

    Raises:
        CheckpointError: for a backbone that is no plain ResNet.
    """
    name = config.backbone_config.backbone
    if name not in _DEPTHS:
        raise CheckpointError(f"backbone {name!r} is not supported: use one of {', '.join(_DEPTHS)}")
    basic = name in ("resnet18", "resnet34")
    native = ResNetConfig(
        depths=list(_DEPTHS[name]),
        layer_type="basic" if basic else "bottleneck",
        hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        out_features=["stage4"],
        num_channels=config.backbone_config.num_channels,
    )
    values = config.to_dict() | {"backbone_config": native}
    return type(config)(**{k: v for k, v in values.items() if k not in ("model_type", "use_timm_backbone")})


def dilate(resnet: Any) -> None:
    """Turn the last stage's stride into dilation (DC5), which the native ResNet has no setting for.

    As torchvision does it: the first block loses its stride, the 3x3 convolutions of the others get dilation 2.
    """
    for number, block in enumerate(resnet.encoder.stages[-1].layers):
        for convolution in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
            convolution.stride = (1, 1)
            if number > 0 and convolution.kernel_size == (3, 3):
                convolution.dilation = convolution.padding = (2, 2)


def load_original(path: Path, dtype: torch.dtype) -> DetrForObjectDetection:
    """A DETR from an original `.pth` file, its architecture read off the tensors.

    The dilation of a DC5 model leaves no trace in the tensors: a training checkpoint's own settings tell it, for a
    released file the "dc5" in its name.

    Raises:
        CheckpointError: for a file that cannot be read or is of another architecture; the message says what differs.
    """
    content = _read(path)
    state = content.get("model", content)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no table of tensors: expected a file as released with DETR's code")
    settings = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    config = _config(path, state, settings.get("nheads", HEADS))
    config.dilation = bool(settings.get("dilation", "dc5" in path.name.lower()))
    renamed, unknown = _renamed(state)
    with torch.device("meta"):
        model = DetrForObjectDetection(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    faults = [f"unexpected {name}" for name in unknown] + [f"unexpected {n}" for n in sorted({*renamed} - {*wanted})]
    faults += [f"missing {name}" for name in sorted({*wanted} - {*renamed})]
    faults += [
        f"{name} has shape {tuple(renamed[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in renamed and tuple(renamed[name].shape) != shape
    ]
    if faults:
        raise CheckpointError(f"{path} does not fit DetrForObjectDetection: {some(faults)}")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in renamed.items()}, assign=True)
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings of training checkpoints
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise CheckpointError(
                f"{path} was refused and nothing of it was run: it is a pickle that asks for {asked[1]}, where a "
                "checkpoint holds tensors and settings alone. Take the file from its authors, or one of safetensors"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "a damaged pickle"  # torch's own text says how to run it all the same
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}): it may be cut short, fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected DETR's table of tensors")
    return content


def _config(path: Path, state: Mapping[str, Tensor], heads: int) -> DetrConfig:
    """The architecture that the tensors tell; their exact shapes are checked against it later."""
    body = "backbone.0.body."
    needed = ("class_embed.bias", "query_embed.weight", "input_proj.weight", f"{body}conv1.weight")
    lacking = [name for name in needed if name not in state]
    if lacking:
        raise CheckpointError(
            f"{path} is no original DETR file: it lacks {', '.join(lacking)} and starts with {', '.join([*state][:3])}"
        )

    def count(prefix: str) -> int:
        found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in state)
        return 1 + max((int(m[1]) for m in found if m), default=-1)

    def rows(name: str, default: int = 1) -> int:
        return int(state[name].shape[0]) if name in state else default

    last = 3 if f"{body}layer1.0.conv3.weight" in state else 2
    backbone = ResNetConfig(
        embedding_size=rows(f"{body}conv1.weight"),
        depths=[count(f"{body}layer{stage}.") for stage in range(1, 5)],
        hidden_sizes=[rows(f"{body}layer{stage}.0.conv{last}.weight") for stage in range(1, 5)],
        layer_type="bottleneck" if last == 3 else "basic",
        out_features=["stage4"],
    )
    classes = rows("class_embed.bias") - 1
    names = COCO_LABELS if classes == len(COCO_LABELS) else {i: f"LABEL_{i}" for i in range(classes)}
    d_model = rows("input_proj.weight")
    if d_model % heads:
        raise CheckpointError(f"{path} has {d_model} channels, which {heads} attention heads do not divide")
    config = DetrConfig(
        backbone_config=backbone,
        d_model=d_model,
        num_queries=rows("query_embed.weight"),
        encoder_layers=count("transformer.encoder.layers."),
        decoder_layers=count("transformer.decoder.layers."),
        encoder_ffn_dim=rows("transformer.encoder.layers.0.linear1.weight"),
        decoder_ffn_dim=rows("transformer.decoder.layers.0.linear1.weight"),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    config._attn_implementation = "eager"
    return config


def _renamed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under the native names, and the names that no rule knows."""
    renames = backbone_renames(r"backbone\.0\.body\.", "model.backbone.model") | {
        f"^{old}": new for old, new in _RENAMES.items()
    }
    out: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):  # of no use at inference
            continue
        if stacked := _STACKED.fullmatch(name):
            part, layer, attention, kind = stacked.groups()
            target = "self_attn" if attention == "self_attn" else "encoder_attn"
            for head, piece in zip("qkv", tensor.chunk(3), strict=True):
                out[f"model.{part}.layers.{layer}.{target}.{head}_proj.{kind}"] = piece
            continue
        new = next((re.sub(old, to, name) for old, to in renames.items() if re.match(old, name)), None)
        if new is None:
            unknown.append(name)
        else:
            out[new] = tensor
    return out, unknown
