"""Small random detectors that sample their keys, with their wiring written down a second time, for the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sampled_oracle import Link
from tiny import enliven, tiny_deformable_detr
from torch import nn
from transformers import (
    Deimv2Config,
    Deimv2ForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    DINOv3ViTConfig,
    HGNetV2Config,
    LwDetrConfig,
    LwDetrForObjectDetection,
    LwDetrViTConfig,
    PreTrainedModel,
    RfDetrConfig,
    RfDetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.lw_detr import LwDetrAdapter, RfDetrAdapter
from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.rt_detr import Deimv2Adapter, DFineAdapter, RTDetrAdapter, RTDetrV2Adapter

QUERIES, CLASSES = 6, 5
SIZE = (64, 96)  # divisible by every stride and window below


@dataclass(frozen=True)
class Wiring:
    """What the oracle must know of a model."""

    encoder: list[Link]
    decoder: list[Link]
    projection: list[nn.Module]


@dataclass(frozen=True)
class Case:
    """A kind of detector.

    Attributes:
        build: seed -> model, in double precision.
        adapter: its adapter.
        wiring: of a model.
        grids: (h, w) of its levels for an image of `SIZE`.
    """

    build: Callable[[int], PreTrainedModel]
    adapter: type[ObservedDetector]
    wiring: Callable[[Any], Wiring]
    grids: tuple[tuple[int, int], ...] = ((8, 12), (4, 6), (2, 3))


def _lively(kind: Any, config: Any, seed: int) -> Any:
    """A model of that class with peaked attention, and convolutions that keep the size of what they read."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = kind(config)
    enliven(model, seed, 0.7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 4 and "backbone" not in name:
                p *= (p.shape[-1] / p[0].numel()) ** 0.5
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
    return model.double().eval()


_HYBRID = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_n_points": 2,
    "num_queries": QUERIES,
    "num_labels": CLASSES,
    "hidden_expansion": 0.5,
    "num_denoising": 10,
}


def _resnet() -> RTDetrResNetConfig:
    return RTDetrResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )


def _hgnet(out: list[int] | None = None) -> HGNetV2Config:
    return HGNetV2Config(
        hidden_sizes=[6, 8, 10, 12],
        stem_channels=[3, 4, 4],
        stage_in_channels=[4, 6, 8, 10],
        stage_mid_channels=[4, 4, 4, 4],
        stage_out_channels=[6, 8, 10, 12],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_indices=out or [2, 3, 4],
    )


def rt_detr(seed: int, **changes: Any) -> Any:
    """RT-DETR on three levels of a ResNet."""
    settings = {**_HYBRID, "encoder_in_channels": [6, 8, 10], "backbone_config": _resnet(), **changes}
    return _lively(RTDetrForObjectDetection, RTDetrConfig(**settings), seed)


def rt_detr_v2(seed: int, **changes: Any) -> Any:
    """RT-DETR v2, likewise."""
    settings = {**_HYBRID, "encoder_in_channels": [6, 8, 10], "backbone_config": _resnet(), **changes}
    return _lively(RTDetrV2ForObjectDetection, RTDetrV2Config(**settings), seed)


_FINE = {**_HYBRID, "max_num_bins": 8, "lqe_hidden_dim": 8, "depth_mult": 0.34}


def d_fine(seed: int, **changes: Any) -> Any:
    """D-FINE on an HGNetV2, with another number of points on every level."""
    settings = {
        **_FINE,
        "encoder_in_channels": [8, 10, 12],
        "backbone_config": _hgnet(),
        "decoder_n_points": [3, 2, 1],
        **changes,
    }
    return _lively(DFineForObjectDetection, DFineConfig(**settings), seed)


def deimv2(seed: int, **changes: Any) -> Any:
    """DEIMv2 with the hybrid encoder on an HGNetV2."""
    settings = {**_FINE, "encoder_in_channels": [8, 10, 12], "backbone_config": _hgnet(), **changes}
    return _lively(Deimv2ForObjectDetection, Deimv2Config(**settings), seed)


def deimv2_lite(seed: int) -> Any:
    """DEIMv2 with the lite encoder: two levels, no attention before the decoder."""
    return deimv2(
        seed,
        backbone_config=_hgnet([3]),
        encoder_in_channels=[10],
        encoder_type="lite",
        decoder_in_channels=[32, 32],
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_layers=0,
        use_gateway=False,
        share_bbox_head=True,
    )


def deimv2_vit(seed: int) -> Any:
    """DEIMv2 with a DINOv3 backbone."""
    backbone = DINOv3ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=16,
        out_indices=[1, 2, 3],
        apply_layernorm=False,
    )
    return deimv2(seed, backbone_config=backbone, spatial_tuning_adapter_inplanes=4, encoder_has_trailing_conv=False)


_TRANSFORMER = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 8,
    "decoder_n_points": 2,
    "num_queries": QUERIES,
    "num_labels": CLASSES,
    "group_detr": 2,
    "dropout": 0.0,
}


def lw_detr(seed: int, scales: tuple[float, ...] = (1.0,)) -> Any:
    """LW-DETR on a windowed vision transformer."""
    backbone = LwDetrViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=96,
        pretrain_image_size=64,
        window_block_indices=[0],
        num_windows=4,
        out_indices=[1, 2],
    )
    config = LwDetrConfig(backbone_config=backbone, projector_scale_factors=list(scales), **_TRANSFORMER)
    return _lively(LwDetrForObjectDetection, config, seed)


def rf_detr(seed: int) -> Any:
    """RF-DETR on a windowed DINOv2."""
    backbone = RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_windows=2,
        out_features=["stage2", "stage3"],
    )
    return _lively(RfDetrForObjectDetection, RfDetrConfig(backbone_config=backbone, **_TRANSFORMER), seed)


def _decoder(layers: Any, cross: str) -> list[Link]:
    return [
        link
        for layer in layers
        for link in (
            Link(layer.self_attn, "queries", "queries"),
            Link(getattr(layer, cross), "queries", "image"),
        )
    ]


def _deformable(model: Any) -> Wiring:
    inner = model.model
    encoder = [Link(layer.self_attn, "image", "image") for layer in inner.encoder.layers]
    return Wiring(encoder, _decoder(inner.decoder.layers, "encoder_attn"), list(inner.input_proj))


def _hybrid(projections: Callable[[Any], list[nn.Module]]) -> Callable[[Any], Wiring]:
    """The last level's 2 x 3 tokens follow the others; a second level that attends is the middle one's 4 x 6."""
    rows = {2: slice(120, 126), 1: slice(96, 120)}

    def wiring(model: Any) -> Wiring:
        inner = model.model
        encoder = [
            Link(layer.self_attn, "image", "image", rows[level])
            for level, block in zip(model.config.encode_proj_layers, getattr(inner.encoder, "aifi", ()), strict=False)
            for layer in block.layers
        ]
        return Wiring(encoder, _decoder(inner.decoder.layers, "encoder_attn"), projections(inner))

    return wiring


_PLAIN = _hybrid(lambda inner: list(inner.encoder_input_proj))
_LITE = _hybrid(lambda inner: [inner.encoder.input_proj[0], inner.encoder.bi_fusion_conv])


def _projector(projections: Callable[[Any], list[nn.Module]]) -> Callable[[Any], Wiring]:
    def wiring(model: Any) -> Wiring:
        inner = model.model
        return Wiring([], _decoder(inner.decoder.layers, "cross_attn"), projections(inner.backbone.projector))

    return wiring


_SCALES = _projector(lambda projector: list(projector.scale_layers))
_DEFORMABLE = ((8, 12), (4, 6), (2, 3))

CASES: dict[str, Case] = {
    "deformable_detr": Case(
        lambda seed: tiny_deformable_detr(seed, refine=False), DeformableDetrAdapter, _deformable, _DEFORMABLE
    ),
    "deformable_detr-refined": Case(tiny_deformable_detr, DeformableDetrAdapter, _deformable, _DEFORMABLE),
    "deformable_detr-two-stage": Case(
        lambda seed: tiny_deformable_detr(seed, two_stage=True), DeformableDetrAdapter, _deformable, _DEFORMABLE
    ),
    "rt_detr": Case(rt_detr, RTDetrAdapter, _PLAIN),
    "rt_detr-two-levels-attend": Case(
        lambda seed: rt_detr(seed, encode_proj_layers=[1, 2], encoder_layers=2), RTDetrAdapter, _PLAIN
    ),
    "rt_detr-four-levels": Case(
        lambda seed: rt_detr(seed, num_feature_levels=4),
        RTDetrAdapter,
        _hybrid(lambda inner: [*inner.encoder_input_proj, inner.decoder_input_proj[3]]),
        ((8, 12), (4, 6), (2, 3), (1, 2)),
    ),
    "rt_detr_v2": Case(rt_detr_v2, RTDetrV2Adapter, _PLAIN),
    "rt_detr_v2-discrete": Case(lambda seed: rt_detr_v2(seed, decoder_method="discrete"), RTDetrV2Adapter, _PLAIN),
    "d_fine": Case(d_fine, DFineAdapter, _PLAIN),
    "deimv2": Case(deimv2, Deimv2Adapter, _hybrid(lambda inner: list(inner.conv_encoder.encoder_input_proj))),
    "deimv2-lite": Case(deimv2_lite, Deimv2Adapter, _LITE, ((4, 6), (2, 3))),
    "deimv2-vit": Case(deimv2_vit, Deimv2Adapter, _hybrid(lambda inner: list(inner.conv_encoder.fusion_proj))),
    "lw_detr": Case(lw_detr, LwDetrAdapter, _SCALES, ((4, 6),)),
    "lw_detr-two-levels": Case(lambda seed: lw_detr(seed, (2.0, 0.5)), LwDetrAdapter, _SCALES, ((8, 12), (2, 3))),
    "rf_detr": Case(rf_detr, RfDetrAdapter, _projector(lambda projector: [projector]), ((4, 6),)),
}
