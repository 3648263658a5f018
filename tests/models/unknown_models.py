"""Architectures on no list: a plain transformer, BridgeTower, and a joint stream of text and picture."""

from __future__ import annotations

from typing import Any

import torch
from tiny import enliven, picture
from torch import Tensor, nn
from transformers import (
    BridgeTowerConfig,
    BridgeTowerForMaskedLM,
)


def plain_transformer(batch_first: bool = True) -> nn.Transformer:
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 2, 2, 24, batch_first=batch_first).double().eval()
    enliven(model, 0, 1.0)
    return model


def of_transformer(batch_first: bool = True) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    found = {name: torch.randn(1, n, 16, generator=g, dtype=torch.float64) for name, n in (("src", 6), ("tgt", 4))}
    if not batch_first:
        found = {name: x.transpose(0, 1) for name, x in found.items()}
    return found | {"tgt_mask": nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)}


SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 32}


def bridge_tower(kind: Any = BridgeTowerForMaskedLM) -> Any:
    torch.manual_seed(0)
    config = BridgeTowerConfig(
        **SIZES,
        num_hidden_layers=2,
        text_config={**SIZES, "vocab_size": 30, "num_hidden_layers": 3, "max_position_embeddings": 20},
        vision_config={"hidden_size": 64, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        attn_implementation="eager",
    )
    model = kind(config)
    enliven(model, 0, 0.8)
    return model.double().eval()


def of_bridge_tower() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[0, 5, 6, 7, 8, 9, 2]]), "pixel_values": picture(32, 32, 3)}


class Joint(nn.Module):
    """Text and picture in one stream; attention by `einsum`, dropout between softmax and product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        x = torch.cat([text, image], 1)
        for layer in self.project:
            q, k, v = layer(x).unflatten(-1, (3, 2, 4)).unbind(2)  # [B, N, heads, 4]
            a = self.drop(torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1))
            x = x + torch.einsum("b h q k, b k h d -> b q h d", a, v).flatten(2)
        return self.head(x[:, 0])


class Fused(Joint):
    """The same through `scaled_dot_product_attention`."""

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        x = torch.cat([text, image], 1)
        for layer in self.project:
            q, k, v = layer(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            o = nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
            x = x + o.transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


def of_joint() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    return {name: torch.randn(1, n, 8, generator=g, dtype=torch.float64) for name, n in (("text", 5), ("image", 9))}
