"""Every attention of a forward pass, in whichever module and way it happens, and what depends on it.

Nothing needs to be known of the model: all its modules are watched. One item is run at a time, so the first dimension
of maps that are not [1, heads, Nq, Nk] counts heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.models.attention import attend
from hetexp.models.deformable import Sampled
from hetexp.models.multihead import additive
from hetexp.models.observe import hooked
from hetexp.models.watch import Products, Seen, Watch

ROOT = "."  # path of the model itself


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, the model itself included."""
    return {path or ROOT: module for path, module in model.named_modules()}


class Survey(Watch):
    """Observes all modules of a model while it runs one item.

    Attributes:
        calls: what was observed, in the order of the calls; a name is the module's path.
        values: V of each call, in the graph.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(modules_of(model))
        self.values: list[Tensor] = []

    def _products(self) -> Products:
        return _AllProducts(self)

    def _dense(self, module: nn.Module, probabilities: Tensor, values: Tensor, output: Tensor, *more: Any) -> None:
        super()._dense(module, probabilities, values, output, *more)
        self.values.append(values)

    def _sparse(self, module: nn.Module, call: Sampled) -> None:
        super()._sparse(module, call)
        self.values.append(call.value)


class _AllProducts(Products):
    """Catches, besides softmax(...) V, its forms as `einsum` and `scaled_dot_product_attention`."""

    def around(self, module: nn.Module) -> Sequence[Any]:
        def enter(module: nn.Module, args: Any) -> None:
            self._inside.append((module, 1))
            self._scored = []

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._inside.pop()

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._inside and func is nn.functional.scaled_dot_product_attention:
            return self._attended(*args, **(kwargs or {}))
        if self._inside and func is torch.einsum and len(args) == 3 and self._is_map(args[1]):
            return self._contracted(*args)
        return super().__torch_function__(func, types, args, kwargs)

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention in one call, [..., N, head_dim]."""
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        q, k, v = (x.reshape(1, -1, *x.shape[-2:]) for x in (query, key, value))
        if is_causal:
            attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None:
            attn_mask = additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask, q)
            attn_mask = attn_mask.expand(*query.shape[:-1], k.shape[2]).reshape(1, -1, q.shape[2], k.shape[2])
        output, _ = attend(self._inside[-1][0], q, k, v, attn_mask, scale)
        return output.transpose(1, 2).reshape(*query.shape[:-1], value.shape[-1])

    def _contracted(self, equation: str, maps: Tensor, values: Tensor) -> Tensor:
        """einsum of a map with its values: batched product in its usual order, then in the one that is asked for."""
        left, result = equation.replace(" ", "").split("->")
        of_map, of_values = left.split(",")
        (key,) = set(of_map) & set(of_values) - set(result)
        (query,) = set(of_map) & set(result) - set(of_values)
        (width,) = set(of_values) & set(result) - set(of_map)
        shared = [x for x in of_map if x not in (key, query)]
        a = maps.permute([of_map.index(x) for x in (*shared, query, key)])
        v = values.permute([of_values.index(x) for x in (*shared, key, width)])
        output = a @ v
        self._record(a, v, output)
        return output.permute([(*shared, query, width).index(x) for x in result])


@dataclass(frozen=True)
class Call:
    """One attention of the pass.

    Attributes:
        seen: what was observed.
        number: which call of its module it is, from 1.
        read: earlier calls that its keys and values depend on.
        mixed: earlier calls that its output depends on.
        inputs: floating inputs that its keys and values depend on.
    """

    seen: Seen
    number: int
    read: frozenset[int]
    mixed: frozenset[int]
    inputs: frozenset[str]

    @property
    def path(self) -> str:
        """The module's path in the model."""
        return self.seen.name

    @property
    def n_query(self) -> int:
        return self.seen.probabilities.shape[2]

    @property
    def n_key(self) -> int:
        return self.seen.values.shape[2]


def calls_of(survey: Survey, inputs: Mapping[str, Tensor]) -> list[Call]:
    """What was observed, with what depends on what; `inputs` are those that ask for gradients."""
    marks: dict[int, set[Any]] = {id(_node(x)): {name} for name, x in inputs.items()}
    found: list[Call] = []
    counts: dict[str, int] = {}
    reach = _Reach(marks)
    for i, (seen, values) in enumerate(zip(survey.calls, survey.values, strict=True)):
        read, mixed = reach(values), reach(seen.output)
        counts[seen.name] = counts.get(seen.name, 0) + 1
        found.append(
            Call(
                seen,
                counts[seen.name],
                frozenset(x for x in read if isinstance(x, int)),
                frozenset(x for x in mixed if isinstance(x, int)),
                frozenset(x for x in read if isinstance(x, str)),
            )
        )
        reach.mark(seen.output, i)
    return found


class _Reach:
    """Marked tensors that a tensor depends on, by a walk through autograd's graph."""

    def __init__(self, marks: dict[int, set[Any]]) -> None:
        self._marks = marks
        self._kept: list[Any] = []  # nodes, so that no other gets their number

    def mark(self, x: Tensor, name: Any) -> None:
        node = _node(x)
        self._kept.append(node)
        self._marks.setdefault(id(node), set()).add(name)

    def __call__(self, x: Tensor) -> set[Any]:
        found: set[Any] = set()
        if not x.requires_grad:
            return found
        visited, waiting = set(), [_node(x)]
        while waiting:
            node = waiting.pop()
            if node is None or id(node) in visited:
                continue
            visited.add(id(node))
            self._kept.append(node)
            found |= self._marks.get(id(node), set())
            waiting += [following for following, _ in node.next_functions]
        return found


def _node(x: Tensor) -> Any:
    """The node of autograd's graph that makes a tensor, or that gathers a leaf's gradient."""
    return x.grad_fn if x.grad_fn is not None else torch.autograd.graph.get_gradient_edge(x).node


def read_tokens(outputs: Sequence[Seen], y: Tensor) -> list[list[int]]:
    """Of each call, the rows whose output y reads past all later calls: through residuals and what acts on each token.

    Args:
        y: a scalar in the graph, which is kept.
    """
    caught: dict[int, Tensor] = {}

    def stop(i: int) -> Any:
        def hook(gradient: Tensor) -> Tensor:
            caught[i] = gradient
            return torch.zeros_like(gradient)  # nothing reaches earlier calls through this one

        return hook

    with hooked(seen.output.register_hook(stop(i)) for i, seen in enumerate(outputs)):
        torch.autograd.grad(y, [seen.output for seen in outputs], retain_graph=True, allow_unused=True)
    rows: list[list[int]] = []
    for i, seen in enumerate(outputs):
        if i not in caught:
            rows.append([])
            continue
        by_row = seen.by_head(caught[i][None])[0, 0].abs().amax((0, 2))  # [Nq]
        rows.append(by_row.nonzero().flatten().tolist())
    return rows
