"""Small random Hugging Face models whose attention is peaked and whose gradients are not tiny."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    LxmertConfig,
    LxmertForQuestionAnswering,
    PreTrainedModel,
    ResNetConfig,
)

# Sizes of one stream of a small model.
TOWER: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def enliven(model: PreTrainedModel, seed: int, peak: float) -> None:
    """Peaked attention, biases away from zero, running statistics of a network that has seen data."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "backbone" in name:
                continue
            if p.dim() <= 1:
                p += 0.3 * torch.randn(p.shape, generator=g)
            else:
                p.copy_(torch.randn(p.shape, generator=g) * (1.0 / p.shape[-1]) ** 0.5)
            if any(part in name for part in ("q_proj.weight", "k_proj.weight", "query.weight", "key.weight")):
                p *= peak
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b += 0.1 * torch.randn(b.shape, generator=g)
            elif name.endswith("running_var"):
                b *= 0.5 + torch.rand(b.shape, generator=g)


def lively(model: PreTrainedModel, seed: int = 0, peak: float = 0.8) -> Any:
    """The model, enlivened, in double precision and evaluation mode."""
    enliven(model, seed, peak)
    return model.double().eval()


def tiny_backbone() -> ResNetConfig:
    """Three ResNet stages with an output stride of 16."""
    return ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 6, 8],
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage3"],
    )


def tiny_detr(
    seed: int = 0,
    *,
    width: int = 16,
    heads: int = 2,
    encoder_layers: int = 2,
    decoder_layers: int = 2,
    queries: int = 6,
    classes: int = 5,
    peak: float = 0.5,
    dtype: torch.dtype = torch.float64,
) -> DetrForObjectDetection:
    """A DETR with output stride 16 and three ResNet stages."""
    torch.manual_seed(seed)
    config = DetrConfig(
        backbone_config=tiny_backbone(),
        use_timm_backbone=False,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        num_queries=queries,
        num_labels=classes,
        attn_implementation="eager",
    )
    model = DetrForObjectDetection(config)
    enliven(model, seed, peak)
    return model.to(dtype).eval()


def tiny_deformable_detr(
    seed: int = 0, *, refine: bool = True, two_stage: bool = False, queries: int = 6, classes: int = 5
) -> DeformableDetrForObjectDetection:
    """A Deformable DETR on three levels, of which the backbone gives two."""
    torch.manual_seed(seed)
    backbone = tiny_backbone()
    backbone.out_features = ["stage2", "stage3"]
    config = DeformableDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=queries,
        num_labels=classes,
        num_feature_levels=3,
        with_box_refine=refine,
        two_stage=two_stage,
        two_stage_num_proposals=queries,
        attn_implementation="eager",
    )
    model = DeformableDetrForObjectDetection(config)
    enliven(model, seed, 0.5)
    return model.double().eval()


def tiny_lxmert(
    seed: int = 0,
    *,
    width: int = 16,
    heads: int = 2,
    language: int = 2,
    vision: int = 1,
    cross: int = 2,
    features: int = 7,
    answers: int = 6,
    peak: float = 0.8,
    dtype: torch.dtype = torch.float64,
) -> LxmertForQuestionAnswering:
    torch.manual_seed(seed)
    config = LxmertConfig(
        vocab_size=30,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        l_layers=language,
        r_layers=vision,
        x_layers=cross,
        visual_feat_dim=features,
        num_qa_labels=answers,
        num_object_labels=3,
        num_attr_labels=3,
        max_position_embeddings=24,
    )
    model = LxmertForQuestionAnswering(config)
    enliven(model, seed, peak)
    return model.to(dtype).eval()


def picture(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random normalised pixels [1, 3, H, W]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=g, dtype=torch.float64).to(dtype)


def question(
    text: int, regions: int, seed: int = 0, features: int = 7, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Random inputs of a VQA model, batch 1."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(1, regions, 2, 2, generator=g, dtype=torch.float64).sort(2).values
    return {
        "input_ids": torch.randint(3, 30, (1, text), generator=g),
        "visual_feats": torch.randn(1, regions, features, generator=g, dtype=torch.float64).to(dtype),
        "visual_pos": torch.cat([corners[:, :, 0], corners[:, :, 1]], -1).to(dtype),
    }


def padded(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several questions as one padded batch with both attention masks; the padding holds nonsense, not zeros."""
    text = max(b["input_ids"].shape[1] for b in batch)
    regions = max(b["visual_feats"].shape[1] for b in batch)
    like = batch[0]["visual_feats"]
    n = len(batch)
    out = {
        "input_ids": torch.full((n, text), 2),
        "attention_mask": torch.zeros(n, text, dtype=torch.long),
        "visual_feats": like.new_full((n, regions, like.shape[2]), 0.7),
        "visual_pos": like.new_full((n, regions, 4), 0.3),
        "visual_attention_mask": torch.zeros(n, regions, dtype=torch.long),
    }
    for row, item in enumerate(batch):
        t, r = item["input_ids"].shape[1], item["visual_feats"].shape[1]
        out["input_ids"][row, :t] = item["input_ids"][0]
        out["attention_mask"][row, :t] = 1
        out["visual_feats"][row, :r] = item["visual_feats"][0]
        out["visual_pos"][row, :r] = item["visual_pos"][0]
        out["visual_attention_mask"][row, :r] = 1
    return out
