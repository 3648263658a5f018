"""A slow, dense oracle of every method, independent of the package.

It runs the Hugging Face classes with eager attention, asks autograd for the gradient of the attention maps
themselves, and multiplies whole N x N matrices, in the floating type of the maps. Padding does not exist here: give it
the unpadded input.

Observing and computing are apart: `watching_detector` and `watching_lxmert` collect what a forward pass does,
`detector_run` and `lxmert_run` pair it with gradients, however these were found, and `METHODS` are functions of the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Seen:
    """One attention map [heads, Nq, Nk] with its gradient; stream names as in the program.

    Where only some tokens of a stream attend, `rows` says which; the others' rows are 0.
    """

    query: str
    key: str
    map: Tensor
    gradient: Tensor
    rows: slice | None = None

    @property
    def is_self(self) -> bool:
        return self.query == self.key

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

    @property
    def like(self) -> Tensor:
        """A tensor of the run's floating type and device."""
        return next(step for group in [self.encoder, *self.fusion] for step in group).map

    def eye(self, stream: str) -> Tensor:
        return eye(self.sizes[stream], self.like)


# -- detectors -------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """Tensors of a forward pass, in the graph: attention maps [1, heads, Nq, Nk] in program order, and features."""

    maps: list[Tensor] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)  # [1, C, h, w] or [1, N, C]


@contextmanager
def watching_detector(model: Any, cut_backbone: bool = True) -> Iterator[Watched]:
    """Collect what a detector of the DETR family does inside the block.

    Args:
        cut_backbone: the graph starts at the backbone's output, which a frozen backbone would leave outside of it.
    """
    seen, inner = Watched(), model.model

    def enter(module: Any, args: Any) -> Any:
        seen.features["backbone"] = args[0].detach().requires_grad_() if cut_backbone else args[0]
        return (seen.features["backbone"],)

    attentions = [layer.self_attn for layer in inner.encoder.layers]
    for layer in inner.decoder.layers:
        attentions += [layer.self_attn, layer.encoder_attn]
    handles = [a.register_forward_hook(lambda m, i, o: seen.maps.append(o[1])) for a in attentions]
    handles += [
        inner.input_projection.register_forward_pre_hook(enter),
        inner.input_projection.register_forward_hook(lambda m, i, o: seen.features.update(projection=o)),
        inner.encoder.register_forward_hook(lambda m, i, o: seen.features.update(encoder=o.last_hidden_state)),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def detector_run(
    model: Any, seen: Watched, gradients: Sequence[Tensor], feature: str, gradient: Tensor, query: int
) -> Run:
    """The run of one object query, from what was watched and the gradients of its maps and of one feature."""
    n = len(model.model.encoder.layers)
    streams = [("image", "image")] * n + [("queries", "queries"), ("queries", "image")] * len(
        model.model.decoder.layers
    )
    steps = [Seen(*pair, m.detach()[0], g[0]) for pair, m, g in zip(streams, seen.maps, gradients, strict=True)]
    pair = (seen.features[feature].detach(), gradient)
    activation, gradient = (x.flatten(2).transpose(1, 2)[0] if x.dim() == 4 else x[0] for x in pair)
    return Run(
        encoder=steps[:n],
        fusion=[[step] for step in steps[n:]],
        features={"image": (activation, gradient)},
        sizes={"image": steps[-1].map.shape[2], "queries": steps[-1].map.shape[1]},
        sources=("image",),
        readout="queries",
        token=query,
    )


def run_detector(
    model: Any,
    pixels: Tensor,
    query: int,
    y: Callable[[Tensor], Tensor],
    feature: str = "projection",
    *,
    of: str = "logits",
    no_object: bool = True,
) -> Run:
    """One forward and one full backward pass for one query.

    Args:
        y: of its class logits [classes], or of its box (centre x, centre y, width, height) [4].
        of: what `y` is taken of, "logits" or "box".
        no_object: whether the model's last logit is that of "no object", which `y` does not see.
    """
    with watching_detector(model) as seen:
        output = model(pixel_values=pixels)
    logits = output.logits[0, query, :-1] if no_object else output.logits[0, query]
    scalar = y({"logits": logits, "box": output.pred_boxes[0, query]}[of])
    gradient, *gradients = torch.autograd.grad(scalar, [seen.features[feature], *seen.maps])
    return detector_run(model, seen, gradients, feature, gradient, query)


# -- LXMERT ----------------------------------------------------------------------------------------------------


def run_lxmert(model: Any, inputs: dict[str, Tensor], y: Callable[[Tensor], Tensor], feature: str = "embedding") -> Run:
    """One forward and one full backward pass; `y` takes the answer logits [answers]."""
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
    places: dict[str, Any] = {"text": model.lxmert.embeddings, "image": encoder.visn_fc}
    if feature == "encoder":
        places = {"text": encoder.layer[-1], "image": encoder.r_layers[-1]}

    def keep(stream: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            kept[stream] = output[0] if feature == "encoder" else output

        return hook

    handles += [module.register_forward_hook(keep(s)) for s, module in places.items()]
    try:
        logits = model(**inputs).question_answering_score[0]
    finally:
        for handle in handles:
            handle.remove()
    flat = [m for calls in maps.values() for m in calls]
    order = ["text", "image"]
    found = torch.autograd.grad(y(logits), [*(kept[s] for s in order), *flat], allow_unused=True)
    of_feature = dict(zip(order, found[:2], strict=True))
    by_map = {id(m): g for m, g in zip(flat, found[2:], strict=True)}

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
        features={s: (kept[s].detach()[0], of_feature[s][0]) for s in order},
        sizes={s: kept[s].shape[1] for s in order},
        sources=("text", "image"),
        readout="text",
        token=0,
    )


# -- the paper's method ----------------------------------------------------------------------------------------

Scores = dict[tuple[str, str], Tensor]  # score matrices [N_X, N_Y]; one that is not there is 0


def eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def add(scores: Scores, pair: tuple[str, str], added: Tensor) -> None:
    scores[pair] = scores[pair] + added if pair in scores else added


def noise_link(rollout: Tensor, by: str) -> Tensor:
    """N = A - I; N / S + I, where a zero S leaves I."""
    noise = rollout - eye(len(rollout), rollout)
    total = noise.sum(1, keepdim=True) if by == "row" else noise.sum().expand(len(noise), 1)
    return torch.where(total == 0, torch.zeros_like(noise), noise / total) + eye(len(noise), noise)


def readout_rows(run: Run, scores: Scores) -> dict[str, Tensor]:
    """The explained token's row of every source, its own entry 0."""
    return without_own(run, {s: scores[run.readout, s][run.token] for s in run.sources})


def without_own(run: Run, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows with the explained token's own entry set to 0."""
    rows = {s: r.clone() for s, r in rows.items()}
    if run.readout in rows:
        rows[run.readout][run.token] = 0
    return rows


def ours(run: Run, correction: str, link: str | None = None) -> dict[str, Tensor]:
    """The readout row of the score matrices A[X, s]."""
    scores: Scores = {(x, x): run.eye(x) for x in run.sizes}
    for step in run.encoder:
        x = step.query
        scores[x, x] = scores[x, x] + step.corrected(correction) @ scores[x, x]
    if link is not None:
        for x in {step.query for step in run.encoder}:
            scores[x, x] = noise_link(scores[x, x], link)
    for group in run.fusion:
        before = dict(scores)
        for step in group:
            attention = step.corrected(correction)
            for s in run.sizes:
                if (step.key, s) in before:
                    add(scores, (step.query, s), attention @ before[step.key, s])
    return readout_rows(run, scores)


def homologous(run: Run, correction: str) -> dict[str, Tensor]:
    out = {}
    for s in run.sources:
        rollout = run.eye(s)
        for step in run.encoder:
            if step.query == s:
                rollout = rollout + step.corrected(correction) @ rollout
        out[s] = rollout[run.token] if s == run.readout else rollout.sum(0)
    return without_own(run, out)


# -- baselines -------------------------------------------------------------------------------------------------


def gae(run: Run, normalise: bool = True, products: bool = True) -> dict[str, Tensor]:
    """R_XX, R_XY by GAE's rules; `products` False leaves the two outer factors of Eq. 10 out."""
    links = {(s.query, s.key) for group in run.fusion for s in group if not s.is_self}
    encoder_decoder = not any((y, x) in links for x, y in links)

    def bar(r: Tensor, stream: str) -> Tensor:
        """N(R)_i = (R - I)_i / sum_j (R - I)_ij + I_i, and N(R)_i = I_i of a token i that attends nothing by design."""
        if not normalise:
            return r
        rest = r - eye(len(r), r)
        shares = rest / rest.sum(1, keepdim=True)
        return torch.where(attending(run, stream)[:, None], shares, 0) + eye(len(r), r)

    scores: Scores = {(x, x): run.eye(x) for x in run.sizes}
    for group in [*([s] for s in run.encoder), *run.fusion]:
        before = dict(scores)
        for step in group:
            x, y, a = step.query, step.key, step.corrected("pos")
            if step.is_self:
                for z in run.sizes:
                    if (x, z) in before:
                        add(scores, (x, z), a @ before[x, z])
                continue
            added = bar(before[x, x], x).T @ a @ bar(before[y, y], y) if products else a @ before[y, y]
            if encoder_decoder:
                added = torch.where(added.isnan(), torch.zeros_like(added), added)
            for z in run.sizes:  # what y knows of others, x among them
                if z != y and (y, z) in before:
                    add(scores, (x, z), a @ before[y, z])
            add(scores, (x, y), added)
    return readout_rows(run, scores)


def attending(run: Run, stream: str) -> Tensor:
    """Which tokens of a stream are a row of any self-attention [N]."""
    found = torch.zeros(run.sizes[stream], dtype=torch.bool, device=run.like.device)
    for step in [*run.encoder, *(s for group in run.fusion for s in group)]:
        if step.query == step.key == stream:
            found[step.rows or slice(None)] = True
    return found


def odam(run: Run) -> dict[str, Tensor]:
    return without_own(run, {s: (f * g).sum(1).relu() for s, (f, g) in run.features.items()})


def last(run: Run, source: str) -> Seen:
    steps = [s for g in [run.encoder, *run.fusion] for s in g if s.key == source]
    return ([s for s in steps if s.query == run.readout] or [s for s in steps if not s.is_self])[-1]


def raw_attention(run: Run) -> dict[str, Tensor]:
    def row(source: str) -> Tensor:
        step = last(run, source)
        return step.map.mean(0)[run.token] if step.query == run.readout else row(step.query) @ step.map.mean(0)

    return without_own(run, {s: row(s) for s in run.sources})


def grad_cam(run: Run) -> dict[str, Tensor]:
    def row(source: str) -> Tensor:
        step = last(run, source)
        whole = (step.gradient.mean((1, 2))[:, None, None] * step.map).mean(0).relu()
        return whole[run.token] if step.query == run.readout else row(step.query) @ whole

    return without_own(run, {s: row(s) for s in run.sources})


def rollout(run: Run) -> dict[str, Tensor]:
    def product(stream: str, until: Seen | None) -> Tensor:
        """Rollout of a stream's self-attentions, as far as they ran before a step."""
        out = run.eye(stream)
        for step in [*run.encoder, *(s for g in run.fusion for s in g)]:
            if step is until:
                break
            if step.query == step.key == stream:
                mixed = step.map.mean(0) + run.eye(stream)
                out = (mixed / mixed.sum(1, keepdim=True)) @ out
        return out

    def row(source: str) -> Tensor:
        if source == run.readout:
            return product(source, None)[run.token]
        step = last(run, source)
        reader = product(run.readout, step)[:, run.token] if step.query == run.readout else row(step.query)
        return reader @ step.map.mean(0) @ product(source, step)

    return without_own(run, {s: row(s) for s in run.sources})


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
