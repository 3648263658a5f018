"""One observer for every way in which a model attends.

Modules of the library's attention interface attend through `hetexp.models.attention`. Deformable ones are read where
they sample. Older ones multiply their softmax with the values themselves, which is caught as it happens. Whatever the
way, a call leaves one observation, and the model computes what it always does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hetexp.models.attention import own_attention
from hetexp.models.deformable import Sampled, is_deformable, sampling_observed
from hetexp.models.observe import hooked, split_heads

# Ways to say softmax, and a product of batched matrices.
SOFTMAX = {torch.softmax, torch.nn.functional.softmax, Tensor.softmax}
PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}


@dataclass(frozen=True)
class Seen:
    """One call of an attention module.

    Attributes:
        name: the module's, as it was asked for.
        probabilities: A, dense [B, heads, Nq, Nk] or sparse [B, heads, Nq, C].
        values: V [B, heads, Nk, head_dim].
        output: O in the graph, [B, heads, Nq, head_dim] in this or another order.
        indices: of a sparse map [B, heads, Nq, C].
        shapes: of a sparse map, (h, w) of the levels that it samples.
        points: of a sparse map, locations [B, heads, Nq, points, 2] and weights [B, heads, Nq, points].
        query: of a dense map, what was compared with the keys [B, heads, Nq, width].
        key: what it was compared with [B, heads, Nk, width].
    """

    name: str
    probabilities: Tensor
    values: Tensor
    output: Tensor
    indices: Tensor | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    points: tuple[Tensor, Tensor] | None = None
    query: Tensor | None = None
    key: Tensor | None = None

    def by_head(self, gradient: Tensor) -> Tensor:
        """A gradient of the output [k, *its shape] as [k, B, heads, Nq, head_dim]."""
        batch, heads, n_query = self.probabilities.shape[:3]
        if gradient.ndim == 4 and gradient.shape[1] == batch and gradient.shape[2] == n_query:
            return split_heads(gradient, heads)  # [k, B, Nq, heads * head_dim]
        return gradient.reshape(len(gradient), batch, heads, n_query, self.values.shape[-1])


class Watch:
    """Observes some modules of a model, from their names."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.calls: list[Seen] = []
        self._modules = modules
        self._names = {module: name for name, module in modules.items()}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Observe what happens inside."""
        deformable = [m for m in self._modules.values() if is_deformable(m)]
        products = self._products()
        plain = [m for m in self._modules.values() if not is_deformable(m)]
        with (
            own_attention(model, self._dense, plain),
            sampling_observed(deformable, self._sparse),
            hooked(handle for m in plain for handle in products.around(m)),
            products,
        ):
            yield

    def _products(self) -> Products:
        return Products(self)

    def _add(self, module: nn.Module, *parts: Any, **more: Any) -> None:
        if module in self._names:
            seen = Seen(self._names[module], *parts, **more)
            if not seen.output.requires_grad and torch.is_grad_enabled():
                seen.output.requires_grad_()  # nothing before it depends on the input: the graph begins here
            self.calls.append(seen)

    def _dense(
        self,
        module: nn.Module,
        probabilities: Tensor,
        values: Tensor,
        output: Tensor,
        query: Tensor | None = None,
        key: Tensor | None = None,
    ) -> None:
        query, key = (None if x is None else x.detach() for x in (query, key))
        self._add(module, probabilities.detach(), values.detach(), output, query=query, key=key)

    def _sparse(self, module: nn.Module, call: Sampled) -> None:
        entries, indices = call.entries()
        points = call.locations.transpose(1, 2), call.weights.transpose(1, 2)
        self._add(module, entries, call.value.detach().transpose(1, 2), call.output, indices, call.shapes, points)


class Products(TorchFunctionMode):
    """Catches softmax(...) V inside modules that compute it themselves."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._inside: list[tuple[nn.Module, int]] = []  # modules that run, with the batch size
        self._scored: list[Tensor] = []  # what the innermost one multiplied last
        self._compared: list[Tensor] = []  # the same when it took the softmax: queries and keys
        self._maps: list[Tensor] = []  # softmax outputs of the innermost one, and what was only renamed or rounded

    def around(self, module: nn.Module) -> Sequence[Any]:
        """Hooks that say when a module runs."""

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            first = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            self._inside.append((module, first.shape[0]))
            self._maps, self._scored = [], []

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._inside.pop()

        return (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._inside or not isinstance(out, Tensor) or not args or not isinstance(args[0], Tensor):
            return out
        if func in SOFTMAX:
            self._maps, self._compared = [out], self._scored
        elif func in PRODUCTS and self._is_map(args[0]):
            self._record(args[0], args[1], out)
        elif func in PRODUCTS:
            self._scored = [args[0], args[1].transpose(-1, -2)]
        elif self._is_map(args[0]) and out.shape.numel() == args[0].shape.numel():
            self._maps.append(out)  # a view, a cast, dropout that is off
        return out

    def _is_map(self, x: Tensor) -> bool:
        return any(x is known for known in self._maps)

    def _record(self, probabilities: Tensor, values: Tensor, output: Tensor) -> None:
        module, batch = self._inside[-1]
        a, v, *compared = (x.reshape(batch, -1, *x.shape[-2:]) for x in (probabilities, values, *self._compared))
        query, key = compared or (None, None)
        self._watch._dense(module, a, v, output, query, key)
        self._maps = []
