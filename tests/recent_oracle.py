"""Slow, dense twins of recent methods and of black boxes, independent of the package.

They ask autograd for everything, of the library's own eager classes, one target, one token and one mask at a time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import oracle
import torch
from competitor_oracle import feature_modules
from oracle import Run, Seen
from torch import Tensor, nn

Rows = dict[str, Tensor]


def steps_of(run: Run) -> list[Seen]:
    return [*run.encoder, *(step for group in run.fusion for step in group)]


def changed(run: Run, change: Callable[[Seen], Seen]) -> Run:
    return replace(
        run, encoder=[change(s) for s in run.encoder], fusion=[[change(s) for s in group] for group in run.fusion]
    )


def legrad(run: Run) -> Rows:
    """Sum over steps of the mean over heads and rows of the positive gradients of attention that is not 0."""
    out = {}
    for source in run.sources:
        layers = [s for s in steps_of(run) if s.key == source]
        positive = [torch.where(s.map == 0, 0, s.gradient).clamp(min=0) for s in layers]
        out[source] = sum(g.sum((0, 1)) / (len(g) * run.sizes[s.query]) for g, s in zip(positive, layers, strict=True))
    return oracle.without_own(run, out)


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What modules return [N, C], call by call."""
    found: list[list[Tensor]] = [[] for _ in modules]
    handles = [
        m.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o.detach()[0]))
        for m, kept in zip(modules, found, strict=True)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def grad_eclip(run: Run, forward: Callable[[], Tensor], projections: dict[str, tuple[nn.Module, nn.Module]]) -> Rows:
    """`projections`: of each source's last attention, what makes queries and keys; their first call is meant."""
    out = {}
    for source, pair in projections.items():
        with outputs_of(pair) as (queries, keys):
            forward()
        q, k = queries[0][run.token], keys[0]
        alike = torch.tensor([float(q @ row / (q.norm() * row.norm())) for row in k], dtype=k.dtype)
        loose = (alike - alike.min()) / (alike.max() - alike.min())
        # the gradient of a map is dy/dO . V, so its sum over heads is that of all channels
        out[source] = (loose * oracle.last(run, source).gradient[:, run.token].sum(0)).relu()
    return oracle.without_own(run, out)


@contextmanager
def features_changed(model: Any, scale: float) -> Iterator[None]:
    modules = [m for several in feature_modules(model).values() for m in several]
    handles = [m.register_forward_hook(lambda m, i, o: scale * o) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def random_of(inputs: dict[str, Tensor]) -> np.random.Generator:
    """Numbers that depend on an input's content alone: CRC-32 of its tensors in the order of their names."""
    seed = 0
    for name in sorted(inputs):
        x = inputs[name]
        seed = zlib.crc32((x.float() if x.is_floating_point() else x).numpy().tobytes(), seed)
    return np.random.default_rng(seed)


def smooth_grad(
    model: Any, inputs: dict[str, Tensor], forward: Callable[[], Tensor], samples: int, noise: float
) -> Rows:
    random = random_of(inputs)
    totals: dict[str, list[Tensor]] = {}
    for _ in range(samples):
        leaves: dict[str, list[Tensor]] = {}

        def disturb(source: str, leaves: dict[str, list[Tensor]] = leaves) -> Callable[..., Tensor]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                spread = noise * float((output.max() - output.min()).detach())
                drawn = torch.tensor(random.normal(size=tuple(output.shape)), dtype=output.dtype)
                leaf = (output.detach() + spread * drawn).requires_grad_()
                leaves.setdefault(source, []).append(leaf)
                return leaf

            return hook

        handles = [
            m.register_forward_hook(disturb(s)) for s, several in feature_modules(model).items() for m in several
        ]
        try:
            y = forward()
        finally:
            for handle in handles:
                handle.remove()
        for source, tensors in leaves.items():
            gradients = torch.autograd.grad(y, tensors, retain_graph=True)
            flat = torch.cat([g[0].flatten(1).T if g.ndim == 4 else g[0] for g in gradients])
            totals.setdefault(source, []).append(flat)
    return {s: torch.stack(found).mean(0).abs().sum(1) for s, found in totals.items()}


def beyond_intuition(model: Any, rerun: Callable[[], Run], steps: int) -> Rows:
    """`rerun` observes the model as it is then."""
    run = rerun()

    def perceived(step: Seen) -> Seen:
        sizes = torch.stack([(a.T @ g).abs().mean() for a, g in zip(step.map, step.gradient, strict=True)])
        share = sizes / sizes.sum() if float(sizes.sum()) else torch.zeros_like(sizes)
        mean = torch.einsum("h,hqn->qn", share, step.map)[None]
        return Seen(step.query, step.key, mean, torch.ones_like(mean))

    perception = oracle.ours(changed(run, perceived), "full")
    gradients: dict[str, list[Tensor]] = {s: [] for s in run.sources}
    for n in range(steps):
        scale = n / (steps - 1)
        with features_changed(model, scale):
            other = rerun()
        for source, found in gradients.items():
            found.append(oracle.last(other, source).gradient[:, run.token])
    feedback = {s: torch.stack(found).mean(0).clamp(min=0).mean(0) for s, found in gradients.items()}
    return {s: rows * feedback[s] for s, rows in perception.items()}


def token_tm(run: Run, forward: Callable[[], Tensor], projections: Sequence[tuple[nn.Module, nn.Module]]) -> Rows:
    """`projections`: of every step, in program order, what makes values and what follows the heads."""
    inputs: dict[nn.Module, list[Tensor]] = {}

    def keep(module: nn.Module, args: Any) -> None:
        inputs.setdefault(module, []).append(args[0].detach()[0])

    handles = [m.register_forward_pre_hook(keep) for m in dict.fromkeys(value for value, _ in projections)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    changes, lengths = [], []
    for value, output in projections:
        before = inputs[value].pop(0)
        after = (value(before) @ output.weight.T).detach()
        angle = torch.tensor([float(a @ b / (a.norm() * b.norm())) for a, b in zip(before, after, strict=True)])
        angle = angle.to(before).exp()
        lengths.append(before.norm(dim=1))
        changes.append(after.norm(dim=1) / lengths[-1] * angle / angle.mean())
    left = iter(changes)
    weighted = changed(run, lambda step: replace(step, map=step.map * next(left)))
    rows = oracle.ours(weighted, "pos")
    first = {s: next(n for n, step in zip(lengths, steps_of(run), strict=True) if step.key == s) for s in run.sources}
    return {s: rows[s] * first[s] for s in run.sources}


def token_projections(model: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Value and output projection of every step, in program order."""
    if hasattr(model, "lxmert"):
        encoder = model.lxmert.encoder
        pairs = [(x.attention.self.value, x.attention.output.dense) for x in [*encoder.layer, *encoder.r_layers]]
        for layer in encoder.x_layers:
            pairs += 2 * [(layer.visual_attention.att.value, layer.visual_attention.output.dense)]
            pairs.append((layer.lang_self_att.self.value, layer.lang_self_att.output.dense))
            pairs.append((layer.visn_self_att.self.value, layer.visn_self_att.output.dense))
        return pairs
    modules = [layer.self_attn for layer in model.model.encoder.layers]
    for layer in model.model.decoder.layers:
        modules += [layer.self_attn, layer.encoder_attn]
    found = []
    for m in modules:
        value = m.v_proj if hasattr(m, "v_proj") else m.value_proj
        output = next(getattr(m, n) for n in ("o_proj", "out_proj", "output_proj") if hasattr(m, n))
        found.append((value, output))
    return found


# -- black boxes -------------------------------------------------------------------------------------------------


def enlarged(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres aligned, edges repeated."""
    out = np.zeros(size)
    places = [
        [min(max((i + 0.5) * n / total - 0.5, 0), n - 1) for i in range(total)]
        for n, total in zip(coarse.shape, size, strict=True)
    ]
    for i, y in enumerate(places[0]):
        for j, x in enumerate(places[1]):
            top, left = math.floor(y), math.floor(x)
            down, right = min(top + 1, coarse.shape[0] - 1), min(left + 1, coarse.shape[1] - 1)
            v, u = y - top, x - left
            upper = (1 - u) * coarse[top, left] + u * coarse[top, right]
            lower = (1 - u) * coarse[down, left] + u * coarse[down, right]
            out[i, j] = (1 - v) * upper + v * lower
    return out


def iou(a: Tensor, b: Tensor) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    across = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    down = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    shared = max(across, 0) * max(down, 0)
    return shared / (aw * ah + bw * bh - shared)


@torch.no_grad()
def d_rise(
    model: Any, pixels: Tensor, query: int, masks: int, cells: int, grid: tuple[int, int], no_object: bool
) -> Any:
    """Relevance [h, w] of a grid that the pixels divide into equal blocks."""

    def judged(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = model(pixel_values=x)
        if no_object:
            p = out.logits[0].softmax(1)
            return p[:, :-1], 1 - p[:, -1], out.pred_boxes[0]
        return out.logits[0].sigmoid(), torch.ones(len(out.logits[0]), dtype=x.dtype), out.pred_boxes[0]

    random = random_of({"pixel_values": pixels})
    height, width = pixels.shape[2:]
    down, right = math.ceil(height / cells), math.ceil(width / cells)
    wanted, _, boxes = judged(pixels)
    total = np.zeros((height, width))
    for _ in range(masks):
        coarse = (random.random((cells, cells)) < 0.5).astype(float)
        whole = enlarged(coarse, ((cells + 1) * down, (cells + 1) * right))
        top, left = int(random.integers(down)), int(random.integers(right))
        mask = whole[top : top + height, left : left + width]
        found, objectness, others = judged(pixels * torch.from_numpy(mask))
        best = 0.0
        for p, o, box in zip(found, objectness, others, strict=True):
            cosine = float(wanted[query] @ p / (wanted[query].norm() * p.norm()))
            best = max(best, iou(boxes[query], box) * cosine * float(o))
        total += best * mask
    blocks = total.reshape(grid[0], height // grid[0], grid[1], width // grid[1])
    return torch.from_numpy(blocks.mean((1, 3)) / masks)


@torch.no_grad()
def atman(run: Run, forward: Callable[[], Tensor], factor: float) -> Rows:
    """One token at a time; attention maps are told apart by their order."""
    keys = [step.key for step in steps_of(run)]
    plain = nn.functional.softmax
    whole = float(forward())
    out = {}
    for source in run.sources:
        losses = []
        for token in range(run.sizes[source]):
            left = iter(keys)

            def softmax(x: Tensor, *args: Any, left: Any = left, token: int = token, **kwargs: Any) -> Tensor:
                p = plain(x, *args, **kwargs)
                if x.ndim == 4 and next(left) == source:  # noqa: B023
                    p = p.clone()
                    p[..., token] *= 1 - factor
                    p = p / p.sum(-1, keepdim=True)
                return p

            with patch.object(nn.functional, "softmax", softmax):
                losses.append(whole - float(forward()))
            assert next(left, None) is None
        out[source] = torch.tensor(losses, dtype=run.like.dtype)
    return oracle.without_own(run, out)
