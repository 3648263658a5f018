"""Dense oracle of detectors that sample their keys, independent of the package.

The library's own sampling is linear in the values, so its map is what it makes of an identity matrix in their place: no
formula of the interpolation is needed. Maps of ordinary attention are those that the eager implementation returns, with
every softmax in the precision of its input: LW-DETR's is single whatever the model's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from oracle import Run, Seen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FUNCTION = "multi_scale_deformable_attention_v2"


@dataclass
class Link:
    """An attention module and its streams; `rows` are its tokens in both, where it is not all of them."""

    module: nn.Module
    query: str
    key: str
    rows: slice | None = None


@dataclass
class Caught:
    """One call: a map in the graph (dense), or the dense map of a sampling module with its values and output."""

    map: Tensor  # [heads, Nq, Nk]
    values: Tensor | None = None  # [Nk, heads, d]
    output: Tensor | None = None  # in the graph [1, Nq, heads * d]


@dataclass
class Catch:
    calls: dict[nn.Module, Caught] = field(default_factory=dict)
    running: list[nn.Module] = field(default_factory=list)

    def sampling(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output = function(value, *args, **kwargs)
            n, heads = value.shape[1:3]
            identity = torch.eye(n, dtype=value.dtype)[None, :, None].expand(1, n, heads, n)
            with torch.no_grad():
                dense = function(identity, *args, **kwargs)[0].unflatten(1, (heads, n)).transpose(0, 1)
            if not output.requires_grad:
                output.requires_grad_()
            self.calls[self.running[-1]] = Caught(dense, value.detach()[0], output)
            return output

        return call


class _OwnPrecision(TorchFunctionMode):
    """A softmax stays in the precision of its input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.softmax:
            kwargs.pop("dtype", None)
        return func(*args, **kwargs)


@contextmanager
def catching(links: Sequence[Link]) -> Iterator[Catch]:
    """Collect what attention modules do inside the block."""
    catch = Catch()

    def enter(module: nn.Module, args: Any) -> None:
        catch.running.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        catch.running.pop()
        if not hasattr(module, "sampling_offsets"):
            catch.calls[module] = Caught(output[1])

    with ExitStack() as stack:
        stack.enter_context(_OwnPrecision())
        for link in links:
            module: Any = link.module
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
            if not hasattr(module, "sampling_offsets"):
                continue
            if isinstance(getattr(module, "attn", None), nn.Module):
                stack.enter_context(patch.object(module.attn, "forward", catch.sampling(module.attn.forward)))
            elif hasattr(module, "ms_deformable_attn_core"):
                core = catch.sampling(module.ms_deformable_attn_core)
                stack.enter_context(patch.object(module, "ms_deformable_attn_core", core))
            else:
                home = sys.modules[type(module).__module__]
                if not hasattr(getattr(home, FUNCTION), "is_caught"):
                    core = catch.sampling(getattr(home, FUNCTION))
                    core.is_caught = True  # type: ignore[attr-defined]
                    stack.enter_context(patch.object(home, FUNCTION, core))
        yield catch


def run_sampled(
    model: Any,
    pixels: Tensor,
    query: int,
    y: Callable[[Tensor], Tensor],
    encoder: Sequence[Link],
    decoder: Sequence[Link],
    projection: Sequence[nn.Module],
    *,
    of: str = "logits",
    **inputs: Any,
) -> Run:
    """One forward and one full backward pass for one query; ODAM's feature is what the modules `projection` return."""
    levels: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            output = output.view_as(output)  # an identity's output has readers that are not meant
        tensors = [output] if isinstance(output, Tensor) else [level[0] for level in output]
        for tensor in tensors:
            if not tensor.requires_grad:
                tensor.requires_grad_()
            levels.append(tensor)
        return output

    links = [*encoder, *decoder]
    handles = [module.register_forward_hook(keep) for module in projection]
    try:
        with catching(links) as catch:
            output = model(pixel_values=pixels, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    scalar = y({"logits": output.logits, "box": output.pred_boxes}[of][0, query])
    calls = [catch.calls[link.module] for link in links]
    roots = [call.map if call.output is None else call.output for call in calls]
    gradients = torch.autograd.grad(scalar, [*levels, *roots], allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip([*levels, *roots], gradients, strict=True)]
    features = [
        torch.cat([(x.flatten(2).transpose(1, 2) if x.ndim == 4 else x)[0] for x in several])
        for several in ([x.detach() for x in levels], found[: len(levels)])
    ]
    sizes = {"image": len(features[0]), "queries": output.logits.shape[1]}
    steps = []
    for link, call, gradient in zip(links, calls, found[len(levels) :], strict=True):
        if call.values is None:
            a, g = call.map.detach()[0], gradient[0]
        else:
            of_output = gradient[0].unflatten(1, call.values.shape[1:])
            a, g = call.map, torch.einsum("qhd,nhd->hqn", of_output, call.values)
        if link.rows is not None:
            n = sizes[link.query]
            whole_a, whole_g = a.new_zeros(len(a), n, n), a.new_zeros(len(a), n, n)
            whole_a[:, link.rows, link.rows], whole_g[:, link.rows, link.rows] = a, g
            a, g = whole_a, whole_g
        steps.append(Seen(link.query, link.key, a, g, link.rows))
    return Run(
        encoder=steps[: len(encoder)],
        fusion=[[step] for step in steps[len(encoder) :]],
        features={"image": (features[0], features[1])},
        sizes=sizes,
        sources=("image",),
        readout="queries",
        token=query,
    )
