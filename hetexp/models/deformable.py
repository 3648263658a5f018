"""Deformable attention as attention with a sparse map (Zhu et al., ICLR 2021, doi:10.48550/arXiv.2010.04159).

O_h[q] = sum_p a_h[q, p] V_h(location_h[q, p]) samples the values bilinearly, so it is linear in them: each point stands
for the four tokens around it, with the weight a times their share in the interpolation. Tokens outside of the image are
zero. This holds whichever way the locations were found.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.models.observe import replaced

_FUNCTION = "multi_scale_deformable_attention_v2"  # where a class samples through a function instead of a module
_ATTRIBUTE = "ms_deformable_attn_core"  # where a module keeps that function


@dataclass(frozen=True)
class Sampled:
    """One call of deformable attention.

    Attributes:
        value: V with its heads [B, N, heads, head_dim].
        shapes: (h, w) of every level; their tokens follow each other in N.
        locations: x, y of every point in units of the image's sides [B, Nq, heads, points, 2].
        weights: attention weights [B, Nq, heads, points].
        points: points on every level.
        nearest: whether a point takes the nearest token instead of the four around it.
        output: O, heads concatenated, in the graph [B, Nq, heads * head_dim].
    """

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    locations: Tensor
    weights: Tensor
    points: tuple[int, ...]
    nearest: bool
    output: Tensor

    @torch.no_grad()
    def entries(self) -> tuple[Tensor, Tensor]:
        """The map's entries and the tokens they belong to, [B, heads, Nq, C] each."""
        entries, indices, start = [], [], 0
        parts = zip(self.shapes, self.locations.split(self.points, 3), self.weights.split(self.points, 3), strict=True)
        for (height, width), locations, weights in parts:
            for x, y, share in self._corners(locations, height, width):
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                entries.append(weights * share * inside)
                indices.append(start + y.clamp(0, height - 1) * width + x.clamp(0, width - 1))
            start += height * width
        return torch.cat(entries, 3).transpose(1, 2), torch.cat(indices, 3).transpose(1, 2)

    def _corners(self, locations: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Column, row and share of the tokens that points [..., 2] of one level read."""
        x, y = locations[..., 0] * width, locations[..., 1] * height
        if self.nearest:
            column, row = (x + 0.5).long(), (y + 0.5).long()
            yield column.clamp(0, width - 1), row.clamp(0, height - 1), torch.ones_like(x)
            return
        left, top = (x - 0.5).floor(), (y - 0.5).floor()
        right_share, bottom_share = x - 0.5 - left, y - 0.5 - top
        column, row = left.long(), top.long()
        for down, vertical in ((0, 1 - bottom_share), (1, bottom_share)):
            for across, horizontal in ((0, 1 - right_share), (1, right_share)):
                yield column + across, row + down, vertical * horizontal


def is_deformable(module: nn.Module) -> bool:
    """Whether an attention module samples its keys."""
    return hasattr(module, "sampling_offsets")


@contextmanager
def sampling_observed(modules: Sequence[nn.Module], record: Callable[[nn.Module, Sampled], None]) -> Iterator[None]:
    """Report every call of these deformable attention modules, whichever way the library's class samples."""
    current: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        current[:] = [module]

    def reported(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            output = function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if current:
                record(current[0], _sampled(bound.arguments, output))
            return output

        return call

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            core = getattr(module, "attn", None)
            if isinstance(core, nn.Module):
                stack.enter_context(replaced(core, "forward", reported(core.forward)))
            elif hasattr(module, _ATTRIBUTE):
                stack.enter_context(replaced(module, _ATTRIBUTE, reported(getattr(module, _ATTRIBUTE))))
        homes = {type(m).__module__ for m in modules if not hasattr(m, "attn") and not hasattr(m, _ATTRIBUTE)}
        for home in sorted(homes):
            library = sys.modules[home]
            stack.enter_context(replaced(library, _FUNCTION, reported(getattr(library, _FUNCTION))))
        yield


def _sampled(call: dict[str, Any], output: Tensor) -> Sampled:
    """One call's arguments, in either form of the library."""
    shapes = call.get("value_spatial_shapes_list", call["value_spatial_shapes"])
    locations, weights = call["sampling_locations"], call["attention_weights"]
    if locations.ndim == 6:  # [B, Nq, heads, levels, points, 2]
        points = [locations.shape[4]] * locations.shape[3]
    else:
        points = list(call["num_points_list"])
    return Sampled(
        call["value"],
        tuple((int(h), int(w)) for h, w in shapes),
        locations.detach().reshape(*locations.shape[:3], -1, 2),
        weights.detach().reshape(*weights.shape[:3], -1),
        tuple(points),
        call.get("method", "default") == "discrete",
        output,
    )
