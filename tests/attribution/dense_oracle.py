"""A slow, dense float64 oracle of every method, independent of the package.

It runs the Hugging Face classes with eager attention, asks autograd for the gradient of the attention maps
themselves, and multiplies whole N x N matrices. Padding does not exist here: give it the unpadded input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Seen:
    """One attention map [heads, Nq, Nk] with its gradient; stream names as in the program."""

    query: str
    key: str
    map: Tensor
    gradient: Tensor

    def corrected(self, how: str) -> Tensor:
        change = {"pos": lambda g: g.clamp(min=0), "full": lambda g: g, "abs": lambda g: g.abs()}[how]
        return (change(self.gradient) * self.map).mean(0)


@dataclass
class Run:
    """What one input and one target left behind, in program order; the streams' encoders come first."""

    encoder: list[Seen]
    fusion: list[list[Seen]]  # steps of an inner list read the streams as they were before it
    features: dict[str, tuple[Tensor, Tensor]]  # source -> activation and gradient [N, channels]
    sizes: dict[str, int]
    sources: tuple[str, ...]
    readout: str
    token: int


def run_detr(model: Any, pixels: Tensor, query: int, y: Callable[[Tensor], Tensor], feature: str = "projection") -> Run:
    """One forward and one full backward pass for one query; `y` takes its logits without "no object"."""
    maps: list[Tensor] = []
    kept: dict[str, Tensor] = {}
    inner = model.model

    def cut(module: Any, args: Any) -> Any:  # frozen backbones would leave its output outside the graph
        kept["backbone"] = args[0].detach().requires_grad_()
        return (kept["backbone"],)

    attentions = [layer.self_attn for layer in inner.encoder.layers]
    for layer in inner.decoder.layers:
        attentions += [layer.self_attn, layer.encoder_attn]
    handles = [a.register_forward_hook(lambda m, i, o: maps.append(o[1])) for a in attentions]
    handles.append(inner.input_projection.register_forward_pre_hook(cut))
    handles.append(inner.input_projection.register_forward_hook(lambda m, i, o: kept.update(projection=o)))
    handles.append(inner.encoder.register_forward_hook(lambda m, i, o: kept.update(encoder=o.last_hidden_state)))
    logits = model(pixel_values=pixels).logits[0]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(y(logits[query, :-1]), [kept[feature], *maps])
    slope, gradients = gradients[0], gradients[1:]
    seen = [m.detach()[0] for m in maps]
    grads = [g[0] for g in gradients]
    n = len(inner.encoder.layers)
    activation = kept[feature].detach()
    if activation.dim() == 4:
        activation, slope = (x.flatten(2).transpose(1, 2) for x in (activation, slope))
    steps = [Seen("image", "image", m, g) for m, g in zip(seen[:n], grads[:n], strict=True)]
    fusion = []
    for i, (m, g) in enumerate(zip(seen[n:], grads[n:], strict=True)):
        fusion.append([Seen("queries", "queries" if i % 2 == 0 else "image", m, g)])
    return Run(
        encoder=steps,
        fusion=fusion,
        features={"image": (activation[0], slope[0])},
        sizes={"image": activation.shape[1], "queries": logits.shape[0]},
        sources=("image",),
        readout="queries",
        token=query,
    )


def run_lxmert(model: Any, inputs: dict[str, Tensor], y: Callable[[Tensor], Tensor], feature: str = "embedding") -> Run:
    maps: dict[Any, list[Tensor]] = {}
    kept: dict[str, Tensor] = {}
    encoder = model.lxmert.encoder

    def watch(attention: Any) -> Any:  # dropout is off, so its input is the softmax output that is used further on
        maps[attention] = []
        return attention.dropout.register_forward_hook(lambda m, i, o: maps[attention].append(o))

    language = [layer.attention.self for layer in encoder.layer]
    vision = [layer.attention.self for layer in encoder.r_layers]
    cross = [
        (layer.visual_attention.att, layer.lang_self_att.self, layer.visn_self_att.self) for layer in encoder.x_layers
    ]
    handles = [watch(a) for a in [*language, *vision, *(a for group in cross for a in group)]]
    if feature == "embedding":
        places = {"text": model.lxmert.embeddings, "image": encoder.visn_fc}
        for s, module in places.items():
            handles.append(module.register_forward_hook(lambda m, i, o, s=s: kept.__setitem__(s, o)))
    else:
        places = {"text": encoder.layer[-1], "image": encoder.r_layers[-1]}
        for s, module in places.items():
            handles.append(module.register_forward_hook(lambda m, i, o, s=s: kept.__setitem__(s, o[0])))
    logits = model(**inputs).question_answering_score[0]
    for handle in handles:
        handle.remove()
    flat = [m for calls in maps.values() for m in calls]
    order = ["text", "image"]
    gradients = torch.autograd.grad(y(logits), [*(kept[s] for s in order), *flat], allow_unused=True)
    slopes = dict(zip(order, gradients[:2], strict=True))
    by_map = {id(m): g for m, g in zip(flat, gradients[2:], strict=True)}

    def seen(attention: Any, call: int, query: str, key: str) -> Seen:
        m = maps[attention][call]
        g = by_map[id(m)]
        return Seen(query, key, m.detach()[0], torch.zeros_like(m[0]) if g is None else g[0])

    steps = [seen(a, 0, "text", "text") for a in language] + [seen(a, 0, "image", "image") for a in vision]
    fusion = []
    for both, own_text, own_image in cross:
        fusion.append([seen(both, 0, "text", "image"), seen(both, 1, "image", "text")])
        fusion.append([seen(own_text, 0, "text", "text"), seen(own_image, 0, "image", "image")])
    return Run(
        encoder=steps,
        fusion=fusion,
        features={s: (kept[s].detach()[0], slopes[s][0]) for s in order},
        sizes={s: kept[s].shape[1] for s in order},
        sources=("text", "image"),
        readout="text",
        token=0,
    )


# -- the paper's method ----------------------------------------------------------------------------------------


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def noise_link(rollout: Tensor, by: str) -> Tensor:
    """N = A - I; N / S + I, where a zero S leaves I."""
    noise = rollout - eye(len(rollout))
    total = noise.sum(1, keepdim=True) if by == "row" else noise.sum().expand(len(noise), 1)
    return torch.where(total == 0, torch.zeros_like(noise), noise / total) + eye(len(noise))


def ours(run: Run, correction: str, link: str | None = None) -> dict[str, Tensor]:
    """The readout row of the score matrices A[X][s]."""
    scores = {
        x: {s: eye(n) if x == s else torch.zeros(n, run.sizes[s], dtype=torch.float64) for s in run.sizes}
        for x, n in run.sizes.items()
    }
    for step in run.encoder:
        x = step.query
        change = eye(run.sizes[x]) + step.corrected(correction)
        scores[x] = {s: change @ a for s, a in scores[x].items()}
    if link is not None:
        for x in {step.query for step in run.encoder}:
            scores[x][x] = noise_link(scores[x][x], link)
    for group in run.fusion:
        before = {x: dict(a) for x, a in scores.items()}
        for step in group:
            for s in run.sizes:
                scores[step.query][s] = scores[step.query][s] + step.corrected(correction) @ before[step.key][s]
    return {s: scores[run.readout][s][run.token] for s in run.sources}


def homologous(run: Run, correction: str) -> dict[str, Tensor]:
    out = {}
    for s in run.sources:
        rollout = eye(run.sizes[s])
        for step in run.encoder:
            if step.query == s:
                rollout = (eye(len(rollout)) + step.corrected(correction)) @ rollout
        out[s] = rollout[run.token] if s == run.readout else rollout.sum(0)
    return out


# -- baselines -------------------------------------------------------------------------------------------------


def without_own(run: Run, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = {s: r.clone() for s, r in rows.items()}
    if run.readout in rows:
        rows[run.readout][run.token] = 0
    return rows


def gae(run: Run, normalise: bool = True, products: bool = True) -> dict[str, Tensor]:
    """R_XX, R_XY by GAE's rules; `products` False leaves the two outer factors of Eq. 10 out."""
    detr = run.readout == "queries"

    def bar(r: Tensor) -> Tensor:
        if not normalise:
            return r
        return (r - eye(len(r))) / (r - eye(len(r))).sum(1, keepdim=True) + eye(len(r))

    names = list(run.sizes)
    r = {
        (x, y): eye(run.sizes[x]) if x == y else torch.zeros(run.sizes[x], run.sizes[y], dtype=torch.float64)
        for x in names
        for y in names
    }
    for group in [*([s] for s in run.encoder), *run.fusion]:
        before = dict(r)
        for step in group:
            x, y, a = step.query, step.key, step.corrected("pos")
            if x == y:
                for z in names:
                    r[x, z] = r[x, z] + a @ before[x, z]
                continue
            if products:
                added = bar(before[x, x]).T @ a @ bar(before[y, y])
            else:
                added = a @ before[y, y]
            if detr:
                added = torch.where(added.isnan(), torch.zeros_like(added), added)
            else:
                r[x, x] = r[x, x] + a @ before[y, x]
            r[x, y] = r[x, y] + added
    return without_own(run, {s: r[run.readout, s][run.token] for s in run.sources})


def odam(run: Run) -> dict[str, Tensor]:
    return {s: (f * g).sum(1).relu() for s, (f, g) in run.features.items()}


def last(run: Run, source: str) -> Seen:
    return [s for g in run.fusion for s in g if (s.query, s.key) == (run.readout, source)][-1]


def raw_attention(run: Run) -> dict[str, Tensor]:
    return without_own(run, {s: last(run, s).map.mean(0)[run.token] for s in run.sources})


def grad_cam(run: Run) -> dict[str, Tensor]:
    rows = {}
    for s in run.sources:
        step = last(run, s)
        weights = step.gradient.mean((1, 2))
        rows[s] = (weights[:, None, None] * step.map).mean(0).relu()[run.token]
    return without_own(run, rows)


def rollout(run: Run) -> dict[str, Tensor]:
    def product(stream: str, stop: int) -> Tensor:
        """Rollout of a stream's self-attentions, those of the first `stop` fusion groups included."""
        out = eye(run.sizes[stream])
        for step in [*run.encoder, *(s for g in run.fusion[:stop] for s in g)]:
            if step.query == step.key == stream:
                mixed = step.map.mean(0) + eye(len(out))
                out = (mixed / mixed.sum(1, keepdim=True)) @ out
        return out

    rows = {}
    for s in run.sources:
        if s == run.readout:
            rows[s] = product(s, len(run.fusion))[run.token]
            continue
        at = max(i for i, g in enumerate(run.fusion) if any((p.query, p.key) == (run.readout, s) for p in g))
        rows[s] = (product(run.readout, at).T @ last(run, s).map.mean(0) @ product(s, at))[run.token]
    return without_own(run, rows)


METHODS: dict[str, Callable[[Run], dict[str, Tensor]]] = {
    "ours_pos": lambda run: ours(run, "pos"),
    "ours_abs": lambda run: ours(run, "abs"),
    "ours_full": lambda run: ours(run, "full"),
    "ours_noised": lambda run: ours(run, "pos", "row"),
    "noised_total": lambda run: ours(run, "pos", "total"),
    "abs_noised": lambda run: ours(run, "abs", "row"),
    "gae": gae,
    "gae_plain": lambda run: gae(run, normalise=False),
    "odam": odam,
    "raw_attention": raw_attention,
    "rollout": rollout,
    "grad_cam": grad_cam,
    "homologous": lambda run: homologous(run, "abs"),
}
