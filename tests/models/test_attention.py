"""The own attention against the library's, whatever the size of a block."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_detr
from torch import Tensor
from transformers.models.detr.modeling_detr import eager_attention_forward

from hetexp.models import attention


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block", [1, 3 * 5 * 7 * 8, 2**22])
def test_output_maps_and_gradients(block: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one map, of three and of all of 2 items x 4 heads."""
    monkeypatch.setattr(attention, "block_bytes", lambda device: block)
    g = torch.Generator().manual_seed(0)

    def random(n: int) -> Tensor:
        return torch.randn(2, n, 4, 6, generator=g, dtype=torch.float64)

    query, key, value = (random(n).transpose(1, 2).requires_grad_() for n in (5, 7, 7))
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 5, 7, dtype=torch.float64)
        mask[1, :, :, 4:] = torch.finfo(torch.float64).min
    weight = random(5)
    module = torch.nn.Identity().eval()
    found = []
    for attend in (attention.attend, eager_attention_forward):
        output, maps = attend(module, query, key, value, mask, scaling=0.7)
        found.append((output, maps, *torch.autograd.grad((output * weight).sum(), (query, key, value))))
    assert not found[0][1].requires_grad
    for got, want in zip(*found, strict=True):
        assert got.shape == want.shape
        assert torch.allclose(got, want, rtol=0, atol=1e-13)


def test_the_implementation_is_put_back() -> None:
    model = tiny_detr(0)
    backbone = model.config.backbone_config._attn_implementation
    with attention.own_attention(model):
        assert model.config._attn_implementation == attention.NAME
        assert model.config.backbone_config._attn_implementation == backbone
    assert model.config._attn_implementation == "eager"


def test_the_implementation_is_put_back_after_an_error() -> None:
    model = tiny_detr(0)
    with pytest.raises(RuntimeError, match="deliberate"), attention.own_attention(model):
        raise RuntimeError("deliberate")
    assert model.config._attn_implementation == "eager"
