"""Slow, dense twins of the methods that the paper's is compared with, independent of the package.

They ask autograd for everything, of the library's own eager classes, for one target at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import oracle
import torch
from oracle import Run, Seen
from torch import Tensor, nn
from transformers.activations import GELUActivation

Target = Callable[[Tensor], Tensor]


@dataclass
class Values:
    """What value projections returned, in program order, and which stream it belongs to."""

    streams: list[str] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)  # in the graph [1, N, d]


@contextmanager
def watching_values(places: Sequence[tuple[nn.Module, Sequence[str]]]) -> Iterator[Values]:
    """Collect outputs of value projections; a module that is called several times names a stream for each call."""
    seen = Values()

    def hook(streams: Sequence[str]) -> Callable[..., Tensor]:
        left = list(streams)

        def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            output = output if output.requires_grad else output.detach().requires_grad_()
            seen.streams.append(left.pop(0))
            seen.vectors.append(output)
            return output

        return keep

    handles = [module.register_forward_hook(hook(streams)) for module, streams in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def value_places(model: Any) -> list[tuple[nn.Module, list[str]]]:
    """Value projections with the stream that each call reads."""
    if hasattr(model, "lxmert"):
        encoder = model.lxmert.encoder
        places = [(layer.attention.self.value, ["text"]) for layer in encoder.layer]
        places += [(layer.attention.self.value, ["image"]) for layer in encoder.r_layers]
        for layer in encoder.x_layers:
            places.append((layer.visual_attention.att.value, ["image", "text"]))
            places.append((layer.lang_self_att.self.value, ["text"]))
            places.append((layer.visn_self_att.self.value, ["image"]))
        return places
    inner = model.model
    modules = [(layer.self_attn, "image") for layer in inner.encoder.layers]
    for layer in inner.decoder.layers:
        modules += [(layer.self_attn, "queries"), (layer.encoder_attn, "image")]
    return [(m.v_proj if hasattr(m, "v_proj") else m.value_proj, [stream]) for m, stream in modules]


def value_gradient(model: Any, forward: Callable[[], Tensor], sources: Sequence[str], own: int | None) -> Any:
    """dy/dV . V of every value projection, per source.

    Args:
        forward: runs the model and returns y.
        own: the explained token's place in `text`, whose entry is 0.
    """
    with watching_values(value_places(model)) as seen:
        y = forward()
    gradients = torch.autograd.grad(y, seen.vectors, allow_unused=True)
    out: dict[str, Tensor] = {}
    for stream, vectors, gradient in zip(seen.streams, seen.vectors, gradients, strict=True):
        if stream in sources:
            added = torch.zeros_like(vectors[0, :, 0]) if gradient is None else (vectors * gradient).sum(2)[0].detach()
            out[stream] = out.get(stream, 0) + added
    if own is not None:
        out["text"][own] = 0
    return out


def value_weighted_gae(run: Run, model: Any, forward: Callable[[], Tensor]) -> dict[str, Tensor]:
    """GAE's rules on maps whose columns are scaled with the norm of the value vector behind them."""
    with watching_values(value_places(model)) as seen:
        forward()
    vectors = iter(seen.vectors)

    def weighted(step: Seen) -> Seen:
        heads = len(step.map)
        v = next(vectors)[0].detach().unflatten(1, (heads, -1))  # [Nk, heads, head_dim]
        norms = v.square().sum(2).sqrt().T
        return replace(step, map=torch.einsum("hqk,hk->hqk", step.map, norms))

    encoder = [weighted(step) for step in run.encoder]
    fusion = [[weighted(step) for step in group] for group in run.fusion]
    assert next(vectors, None) is None
    return oracle.gae(replace(run, encoder=encoder, fusion=fusion))


def mean_attention(run: Run) -> dict[str, Tensor]:
    """Mean of the explained token's rows over layers and heads."""
    steps = [*run.encoder, *(s for group in run.fusion for s in group)]
    out = {}
    for source in run.sources:
        rows = [s.map[:, run.token] for s in steps if (s.query, s.key) == (run.readout, source)]
        out[source] = sum(row.sum(0) / len(row) for row in rows) / len(rows)
    return oracle.without_own(run, out)


# -- on LRP maps -------------------------------------------------------------------------------------------------


def on_maps(run: Run, maps: Sequence[Tensor]) -> Run:
    """The run with other maps [heads, Nq, Nk] in the place of its attention, in program order."""
    left = iter(maps)
    encoder = [replace(step, map=next(left)) for step in run.encoder]
    fusion = [[replace(step, map=next(left)) for step in group] for group in run.fusion]
    assert next(left, None) is None
    return replace(run, encoder=encoder, fusion=fusion)


def gae_lrp(run: Run) -> dict[str, Tensor]:
    """GAE with E_h[max(G_h * LRP_h, 0)], from a run on LRP maps."""

    def product(step: Seen) -> Seen:  # its corrected map is the mean of max(G * map, 0)
        both = step.gradient * step.map
        return replace(step, map=both.clamp(min=0), gradient=torch.ones_like(both))

    fusion = [[product(step) for step in group] for group in run.fusion]
    return oracle.gae(replace(run, encoder=[product(step) for step in run.encoder], fusion=fusion))


def transformer_attribution(run: Run) -> dict[str, Tensor]:
    """Rollout of E_h[max(G_h * LRP_h, 0)] in the explained token's stream; for another its last map."""
    out = {}
    for source in run.sources:
        if source == run.readout:
            rollout = run.eye(source)
            for step in [*run.encoder, *(s for group in run.fusion for s in group)]:
                if step.query == step.key == source:
                    rollout = rollout + (step.gradient * step.map).clamp(min=0).mean(0) @ rollout
            out[source] = rollout[run.token]
        else:
            step = oracle.last(run, source)
            out[source] = (step.gradient * step.map).clamp(min=0).mean(0)[run.token]
    return oracle.without_own(run, out)


# -- input x gradient --------------------------------------------------------------------------------------------


def feature_modules(model: Any) -> dict[str, list[nn.Module]]:
    """Per source the modules whose outputs are the features that contributions are given of."""
    if hasattr(model, "lxmert"):
        return {"text": [model.lxmert.embeddings], "image": [model.lxmert.encoder.visn_fc]}
    inner = model.model
    return {"image": list(inner.input_proj) if hasattr(inner, "input_proj") else [inner.input_projection]}


def feature_gradients(
    model: Any, forward: Callable[[], Tensor], scale: float = 1.0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per source features times `scale` and dy/d(that), token by token [N, channels]."""
    kept: dict[str, list[Tensor]] = {}

    def keep(source: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            leaf = torch.tensor((output * scale).tolist(), dtype=output.dtype, requires_grad=True)
            kept.setdefault(source, []).append(leaf)
            return leaf

        return hook

    places = feature_modules(model)
    handles = [m.register_forward_hook(keep(source)) for source, modules in places.items() for m in modules]
    try:
        y = forward()
    finally:
        for handle in handles:
            handle.remove()
    out = {}
    for source, leaves in kept.items():
        gradients = torch.autograd.grad(y, leaves, retain_graph=True)

        def tokens(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([x[0].flatten(1).T if x.ndim == 4 else x[0] for x in tensors]).detach()

        out[source] = tokens(leaves), tokens(gradients)
    return out


def input_x_gradient(model: Any, forward: Callable[[], Tensor]) -> dict[str, Tensor]:
    return {s: (f * g).sum(1) for s, (f, g) in feature_gradients(model, forward).items()}


def integrated_gradients(model: Any, forward: Callable[[], Tensor], steps: int) -> dict[str, Tensor]:
    """By Gauss and Legendre: nodes are the roots of P_n, weights 2 / ((1 - x^2) P_n'(x)^2); features t^2 F."""
    polynomial = np.polynomial.legendre.Legendre.basis(steps)
    out: dict[str, Tensor] = {}
    for x in map(float, polynomial.roots()):
        weight = 2 / ((1 - x**2) * float(polynomial.deriv()(x)) ** 2)
        t = (x + 1) / 2
        with patch.object(Tensor, "detach", lambda self: self):  # boxes that are refined
            found = feature_gradients(model, forward, t**2)
        for source, (f, g) in found.items():
            out[source] = out.get(source, 0) + weight / 2 * 2 * t * (f / t**2 * g).sum(1)
    return {s: rows.detach() for s, rows in out.items()}


@contextmanager
def held_fixed(gates: bool) -> Iterator[None]:
    """Attention weights and normalisations, and optionally gates, are constants to the gradient."""

    def softmax(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return plain["softmax"](x.detach(), *args, **kwargs)

    def layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        spread = (x.detach().var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return (x - x.mean(-1, keepdim=True)) / spread * weight + bias

    def gelu(x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.erf(x.detach() / 2**0.5)))

    def grid_sample(x: Tensor, grid: Tensor, **kwargs: Any) -> Tensor:
        return plain["grid_sample"](x, grid.detach(), **kwargs)

    ours = {"softmax": softmax, "layer_norm": layer_norm, "grid_sample": grid_sample}
    plain = {name: getattr(nn.functional, name) for name in ours}
    with ExitStack() as stack:
        for name, function in ours.items():
            stack.enter_context(patch.object(nn.functional, name, function))
        if gates:
            stack.enter_context(patch.object(GELUActivation, "forward", lambda self, x: gelu(x)))
        yield
