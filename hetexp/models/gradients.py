"""Gradients of many targets from one graph, and how much memory they may take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hetexp.models.trace import Target

GRADIENT_BUDGET = 2**29  # bytes of gradients to hold for all targets of a batch; more are found when they are needed


def block_bytes(device: torch.device) -> int:
    """Bytes of attention maps to work on at a time: what a cache holds, or enough to keep an accelerator busy."""
    return 4 * 2**20 if device.type == "cpu" else 2**28


def batched_gradients(
    scalars: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], *, keep_graph: bool = False
) -> list[Tensor | None]:
    """Gradients of many scalars per batch item, from one graph.

    Items of a batch do not interact, so target j of every item shares one backward pass. The passes follow each
    other: run together (`is_grads_batched`) they took half as long again, and memory in proportion to their number.

    Args:
        scalars: per item its k_i scalars.
        inputs: tensors with the batch as first dimension [B, ...].
        keep_graph: whether more gradients will be asked of it.

    Returns:
        per input its gradient [max k, B, ...], or None where no scalar depends on it.
    """
    n = max((len(s) for s in scalars), default=0)
    if n == 0:
        return [x.new_zeros(0, *x.shape) for x in inputs]
    gradients: list[Tensor | None] = [None] * len(inputs)
    for j in range(n):
        with torch.inference_mode(False), torch.enable_grad():
            total = torch.stack([s[j] for s in scalars if len(s) > j]).sum()
        found = torch.autograd.grad(total, inputs, retain_graph=keep_graph or j + 1 < n, allow_unused=True)
        for i, gradient in enumerate(found):
            if gradient is None:
                continue
            rows = gradients[i]
            if rows is None:
                rows = gradients[i] = gradient.new_zeros(n, *gradient.shape)
            rows[j] = gradient
    return gradients


def classes_read(target: Target, logits: Tensor) -> list[int]:
    """Which of the logits [classes] of a row of the prediction a target is computed from.

    A target that says it itself (`classes`) is believed, so that nothing waits for values of an accelerator.
    """
    stated = getattr(target, "classes", None)
    if stated is not None:
        return list(stated)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(target(leaf), leaf)
    found: list[int] = slope.nonzero().flatten().tolist()
    return found
