"""A model of one's own: words and patches of a picture in one stream of PyTorch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hetexp


class Answerer(nn.Module):
    """Answers from the first word, after two layers among all words and patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, words: Tensor, patches: Tensor) -> Tensor:
        """Logits of three answers [B, 3] from words [B, T, 16] and patches [B, N, 16]."""
        tokens = self.layers(torch.cat([words, patches], 1))
        return self.head(tokens[:, 0])


def inputs() -> dict[str, Tensor]:
    """Five words and a picture of 3 × 3 patches."""
    g = torch.Generator().manual_seed(1)
    return {"words": torch.randn(1, 5, 16, generator=g), "patches": torch.randn(1, 9, 16, generator=g)}


if __name__ == "__main__":
    model = Answerer()
    proposed = hetexp.propose(model, inputs())
    print(proposed)
    proposed.save("my_wiring.yaml")  # then correct it
