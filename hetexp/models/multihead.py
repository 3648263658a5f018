"""PyTorch's own attention module, computed so that its maps can be observed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hetexp.errors import InputError

# Module, query, key, value [B, heads, N, head_dim], what is added to scores -> output [B, Nq, heads, head_dim], maps.
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def multihead(
    attend: Attend,
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `nn.MultiheadAttention.forward` computes without dropout, through `attend`.

    Args:
        attend: computes attention, and tells of it.
        is_causal: as in PyTorch, a hint that `attn_mask` is causal; the mask itself is what is applied.

    Raises:
        InputError: for a module with additional keys and values.
    """
    if module.bias_k is not None or module.add_zero_attn:
        raise InputError("attention with add_bias_kv or add_zero_attn has keys that are no tokens: it is not observed")
    batched = query.ndim == 3

    def batch_first(x: Tensor) -> Tensor:
        return x[None] if not batched else x if module.batch_first else x.transpose(0, 1)

    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:  # keys or values of another width
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    parts = [
        nn.functional.linear(batch_first(x), w, b).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]
    mask = _added(attn_mask, key_padding_mask, module.num_heads, parts[0])
    output, maps = attend(module, parts[0], parts[1], parts[2], mask)
    found: Tensor = module.out_proj(output.flatten(2))
    found = found[0] if not batched else found if module.batch_first else found.transpose(0, 1)
    if not need_weights:
        return found, None
    shown = maps.mean(1) if average_attn_weights else maps
    return found, shown if batched else shown[0]


def _added(attn_mask: Tensor | None, padding: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """Both masks as what is added to scores [B, heads, Nq, Nk], broadcastable."""
    parts = []
    if attn_mask is not None:
        parts.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, heads)))
    if padding is not None:
        parts.append(padding.reshape(-1, padding.shape[-1])[:, None, None])
    added = [additive(mask, like) for mask in parts]
    return None if not added else added[0] if len(added) == 1 else added[0] + added[1]


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added to scores; of a boolean one, True leaves a key out."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)
