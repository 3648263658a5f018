"""Attention as the adapters run it: it hands out its maps, and its backward pass works block by block.

Autograd's own backward pass of softmax attention writes several tensors of [batch, heads, Nq, Nk] per target. This
one keeps a block of them that stays in the processor's cache, and needs no memory besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import eager_mask

from hetexp.models.gradients import block_bytes
from hetexp.models.multihead import multihead
from hetexp.models.observe import replaced

NAME = "hetexp"

# Who is told of every call: module, maps [B, heads, Nq, Nk]; values, output (in the graph), queries and keys
# [B, heads, N, width of a head].
Report = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor, Tensor], None]
_report: ContextVar[Report | None] = ContextVar("report", default=None)

# What computes output and maps from query, key, value [B, heads, N, head_dim], the mask added to scores, and scaling.
Core = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]
_core: ContextVar[Core | None] = ContextVar("core", default=None)


class _Attention(torch.autograd.Function):
    """O = A V and A = softmax(scaling Q K^T + mask); no gradient comes in through A."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()  # what batched products want
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))
        if mask is not None:
            scores += mask
        probabilities = torch.softmax(scores, -1, out=scores)
        output = probabilities @ value
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, value, probabilities, output)
        ctx.mark_non_differentiable(probabilities)
        ctx.set_materialize_grads(False)  # no zeros in the place of the maps' gradient
        return output, probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        shapes = [x.shape for x in ctx.saved_tensors[:3]]
        query, key, value, maps, output = (x.reshape(-1, *x.shape[-2:]) for x in ctx.saved_tensors)
        gradient = gradient.reshape(output.shape).contiguous()
        # softmax: dS = A * (dA - rowsum(dA * A)), and rowsum(dA * A) = rowsum(dO * O)
        mean = (gradient * output).sum(-1, keepdim=True)
        gradients = torch.empty_like(query), key.new_zeros(key.shape), value.new_zeros(value.shape)
        n_maps, n_query, n_key = maps.shape
        row = max(1, n_maps * n_key * maps.element_size())
        step = min(n_query, max(1, 2 * block_bytes(maps.device) // row))  # one block is read, one written
        buffer = maps.new_empty(n_maps * step * n_key)
        transposed = value.transpose(1, 2)
        for start in range(0, n_query, step):
            here = slice(start, min(start + step, n_query))
            a, g = maps[:, here], gradient[:, here]
            block = buffer[: a.numel()].view(a.shape)
            torch.bmm(g, transposed, out=block)
            block.sub_(mean[:, here]).mul_(a)
            gradients[0][:, here] = torch.bmm(block, key)
            gradients[1].baddbmm_(block.transpose(1, 2), query[:, here])
            gradients[2].baddbmm_(a.transpose(1, 2), g)
        gradients[0].mul_(ctx.scaling)
        gradients[1].mul_(ctx.scaling)
        return *(s.reshape(shape) for s, shape in zip(gradients, shapes, strict=True)), None, None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention interface of the library: [B, heads, N, head_dim] -> [B, Nq, heads, head_dim] and the maps."""
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    if position_bias is not None:  # T5 adds one to the scores
        attention_mask = position_bias if attention_mask is None else position_bias + attention_mask
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads share keys and values
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    report = _report.get()
    with torch._C.DisableTorchFunction():  # its inside is nobody's business
        core = _core.get() or _Attention.apply
        output, probabilities = core(query, key, value, attention_mask, factor)
    if report is not None:
        report(module, probabilities, value, output, query, key)
    return output.transpose(1, 2).contiguous(), probabilities


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def own_attention(model: nn.Module, report: Report | None = None, modules: Iterable[nn.Module] = ()) -> Iterator[None]:
    """The model attends through `attend` inside, whatever it was loaded with.

    Args:
        report: called after every attention.
        modules: attention modules meant where they have a configuration of their own; other such parts keep theirs.
    """
    modules = list(modules)
    own: list[Any] = [m.config for m in (model, *modules) if isinstance(getattr(m, "config", None), PreTrainedConfig)]
    configs = {id(config): config for config in own}
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _report.set(report)
    try:
        with ExitStack() as stack:
            for module in modules:
                if isinstance(module, nn.MultiheadAttention):
                    stack.enter_context(replaced(module, "forward", partial(multihead, attend, module)))
            for config in configs.values():
                config._attn_implementation = {"": NAME}
            yield
    finally:
        _report.reset(token)
        for key, config in configs.items():
            config._attn_implementation = {"": before[key]}


@contextmanager
def attending_by(core: Core | None) -> Iterator[None]:
    """Attention is computed by `core` inside, which may give it another backward pass; None leaves it as it is."""
    token = _core.set(core)
    try:
        yield
    finally:
        _core.reset(token)
