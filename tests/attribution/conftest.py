"""Random small models with peaked attention and non-zero biases, so that no gradient is tiny."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    LxmertConfig,
    LxmertForQuestionAnswering,
    ResNetConfig,
)

from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter


def _shake(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() > 1 and any(k in name for k in ("q_proj", "k_proj", "query.", "key.")):
                p.copy_(noise * 1.6 / p.shape[-1] ** 0.5)
            elif p.dim() > 1 and "backbone" not in name:
                p.copy_(noise * 1.0 / p[0].numel() ** 0.5)
            elif name.endswith("bias"):
                p.add_(0.1 * noise)
        for name, b in model.named_buffers():
            if name.endswith(("running_mean", "bias")):
                b.add_(0.1 * torch.randn(b.shape, generator=generator))


def random_detr(seed: int, encoder: int = 2, decoder: int = 3, heads: int = 4, queries: int = 9) -> DetrAdapter:
    config = DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 12, 16],
            depths=[1, 1, 1],
            layer_type="basic",
            out_features=["stage3"],
        ),
        d_model=32,
        encoder_layers=encoder,
        decoder_layers=decoder,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=queries,
        num_labels=6,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = DetrForObjectDetection(config)
    _shake(model, seed)
    return DetrAdapter(model.double(), keep=0.0)


def random_lxmert(seed: int, l_layers: int = 2, r_layers: int = 2, x_layers: int = 3, heads: int = 4) -> LxmertAdapter:
    config = LxmertConfig(
        vocab_size=50,
        hidden_size=32,
        num_attention_heads=heads,
        intermediate_size=48,
        l_layers=l_layers,
        r_layers=r_layers,
        x_layers=x_layers,
        visual_feat_dim=10,
        num_qa_labels=7,
        max_position_embeddings=24,
    )
    torch.manual_seed(seed)
    model = LxmertForQuestionAnswering(config)
    _shake(model, seed)
    return LxmertAdapter(model.double())


def question(seed: int, text: int, regions: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1, 50, (1, text), generator=g),
        "visual_feats": torch.randn(1, regions, 10, generator=g, dtype=torch.float64),
        "visual_pos": torch.rand(1, regions, 4, generator=g, dtype=torch.float64),
    }


@pytest.fixture(scope="session")
def detr() -> DetrAdapter:
    return random_detr(0)


@pytest.fixture(scope="session")
def lxmert() -> LxmertAdapter:
    return random_lxmert(0)
