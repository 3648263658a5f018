"""A slow twin of relevance propagation, independent of the package: models written out on a tape of relevance.

Every operation is a node that keeps its value and shares the relevance it got among its parents, by the equations:
all products input x weight of a layer are formed, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Back = Callable[[Tensor], Sequence[Tensor]]


def divided(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, torch.zeros_like(a), a / (b + 1e-9))


class Node:
    """A value [N, d] and the relevance that reached it."""

    def __init__(self, value: Tensor, parents: Sequence[Node] = (), back: Back | None = None) -> None:
        self.value, self.parents, self.back = value, parents, back
        self.relevance = torch.zeros_like(value)

    def propagate(self, relevance: Tensor) -> None:
        """Send relevance of this node's value to all nodes before it."""
        order: list[Node] = []

        def visit(node: Node) -> None:
            if node not in order:
                for parent in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        self.relevance = relevance
        for node in reversed(order):
            if node.back is not None:
                for parent, part in zip(node.parents, node.back(node.relevance), strict=True):
                    parent.relevance = parent.relevance + part


class Tape:
    """Operations with rules of relevance.

    Args:
        balance: whether linear layers give away exactly what they got in all.
        scales_queries: whether attention scales queries, not scores.
    """

    def __init__(self, balance: bool, scales_queries: bool) -> None:
        self.balance, self.scales_queries = balance, scales_queries
        self.maps: list[list[Node]] = []  # of every attention, its heads' maps

    def linear(self, x: Node, module: Any) -> Node:
        def back(relevance: Tensor) -> Sequence[Tensor]:
            z = (x.value[:, None] * module.weight).clamp(min=0)  # [N, out, in]
            found = (z * divided(relevance, z.sum(2))[:, :, None]).sum(1)
            return [found * divided(relevance.sum(), found.sum()) if self.balance else found]

        return Node(module(x.value), [x], back)

    def product(self, a: Node, b: Node) -> Node:
        def back(relevance: Tensor) -> Sequence[Tensor]:
            z = a.value[:, :, None] * b.value  # [i, k, j]
            part = z * divided(relevance, z.sum(1))[:, None] / 2
            return [part.sum(2), part.sum(0)]

        return Node(a.value @ b.value, [a, b], back)

    def add(self, a: Node, b: Node) -> Node:
        def back(relevance: Tensor) -> Sequence[Tensor]:
            share = divided(relevance, a.value + b.value)
            parts = [a.value * share, b.value * share]
            magnitudes = [p.sum().abs() for p in parts]
            wanted = [divided(m, magnitudes[0] + magnitudes[1]) * relevance.sum() for m in magnitudes]
            return [p * divided(w, p.sum()) for p, w in zip(parts, wanted, strict=True)]

        return Node(a.value + b.value, [a, b], back)

    def hand_on(self, x: Node, function: Callable[[Tensor], Tensor]) -> Node:
        return Node(function(x.value), [x], lambda relevance: [relevance])

    def columns(self, x: Node, part: slice) -> Node:
        def back(relevance: Tensor) -> Sequence[Tensor]:
            whole = torch.zeros_like(x.value)
            whole[:, part] = relevance
            return [whole]

        return Node(x.value[:, part], [x], back)

    def attention(self, q: Node, k: Node, v: Node, heads: int) -> Node:
        """Softmax attention of projected queries, keys and values; its heads side by side."""
        width = q.value.shape[1] // heads
        outputs, maps = [], []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            own = [self.columns(x, part) for x in (q, k, v)]
            turned = Node(own[1].value.T, [own[1]], lambda relevance: [relevance.T])
            if self.scales_queries:  # the division's stabiliser makes a difference of 1e-9
                scores = self.product(self.hand_on(own[0], lambda x: x / width**0.5), turned)
            else:
                scores = self.hand_on(self.product(own[0], turned), lambda x: x / width**0.5)
            a = self.hand_on(scores, lambda x: x.softmax(1))
            outputs.append(self.product(a, own[2]))
            maps.append(a)
        self.maps.append(maps)
        return Node(
            torch.cat([o.value for o in outputs], 1), outputs, lambda relevance: list(relevance.split(width, 1))
        )

    def relevance_maps(self) -> list[Tensor]:
        """LRP maps of every attention [heads, Nq, Nk], in the order of calls."""
        return [torch.stack([m.relevance for m in maps]) for maps in self.maps]


@torch.no_grad()
def detr_maps(model: Any, pixels: Tensor, query: int, index: int) -> list[Tensor]:
    """LRP maps of a DETR for one logit, in program order."""
    caught: dict[str, Tensor] = {}
    inner = model.model
    handles = [
        inner.encoder.layers[0].register_forward_pre_hook(
            lambda m, a, k: caught.update(x=a[0], p=k["spatial_position_embeddings"]), with_kwargs=True
        )
    ]
    model(pixel_values=pixels)
    handles[0].remove()
    tape = Tape(balance=True, scales_queries=True)
    heads = model.config.encoder_attention_heads
    image, places = Node(caught["x"][0]), caught["p"][0]
    query_places = inner.query_position_embeddings.weight

    def attend(module: Any, x: Node, where: Tensor, y: Node, where_y: Tensor) -> Node:
        q = tape.linear(tape.hand_on(x, lambda v: v + where), module.q_proj)
        k = tape.linear(tape.hand_on(y, lambda v: v + where_y), module.k_proj)
        return tape.linear(tape.attention(q, k, tape.linear(y, module.v_proj), heads), module.o_proj)

    def block(x: Node, added: Node, norm: Any) -> Node:
        return tape.hand_on(tape.add(x, added), norm)

    def mlp(layer: Any, x: Node) -> Node:
        hidden = tape.hand_on(tape.linear(x, layer.mlp.fc1), torch.relu)
        return block(x, tape.linear(hidden, layer.mlp.fc2), layer.final_layer_norm)

    for layer in inner.encoder.layers:
        attended = attend(layer.self_attn, image, places, image, places)
        image = mlp(layer, block(image, attended, layer.self_attn_layer_norm))
    x = Node(torch.zeros_like(query_places))
    for layer in inner.decoder.layers:
        attended = attend(layer.self_attn, x, query_places, x, query_places)
        x = block(x, attended, layer.self_attn_layer_norm)
        attended = attend(layer.encoder_attn, x, query_places, image, places)
        x = mlp(layer, block(x, attended, layer.encoder_attn_layer_norm))
    logits = tape.linear(tape.hand_on(x, inner.decoder.layernorm), model.class_labels_classifier)
    start = torch.zeros_like(logits.value)
    start[query, index] = 1
    logits.propagate(start)
    return tape.relevance_maps()


@torch.no_grad()
def lxmert_maps(model: Any, inputs: dict[str, Tensor], index: int) -> list[Tensor]:
    """LRP maps of an LXMERT for one answer, in the order of `oracle.run_lxmert`: both ways of a cross layer first."""
    encoder = model.lxmert.encoder
    tape = Tape(balance=False, scales_queries=False)
    heads = model.config.num_attention_heads
    text = Node(model.lxmert.embeddings(inputs["input_ids"], torch.zeros_like(inputs["input_ids"]))[0])
    image = Node(encoder.visn_fc(inputs["visual_feats"], inputs["visual_pos"])[0])

    def attend(module: Any, x: Node, y: Node) -> Node:
        return tape.attention(
            tape.linear(x, module.query), tape.linear(y, module.key), tape.linear(y, module.value), heads
        )

    def output(module: Any, x: Node, residual: Node) -> Node:
        return tape.hand_on(tape.add(tape.linear(x, module.dense), residual), module.LayerNorm)

    def mlp(inner: Any, outer: Any, x: Node) -> Node:
        return output(outer, tape.hand_on(tape.linear(x, inner.dense), inner.intermediate_act_fn), x)

    def layer(module: Any, x: Node) -> Node:
        x = output(module.attention.output, attend(module.attention.self, x, x), x)
        return mlp(module.intermediate, module.output, x)

    for module in encoder.layer:
        text = layer(module, text)
    for module in encoder.r_layers:
        image = layer(module, image)
    for module in encoder.x_layers:
        cross = module.visual_attention
        both = attend(cross.att, text, image), attend(cross.att, image, text)
        text, image = output(cross.output, both[0], text), output(cross.output, both[1], image)
        text = output(module.lang_self_att.output, attend(module.lang_self_att.self, text, text), text)
        image = output(module.visn_self_att.output, attend(module.visn_self_att.self, image, image), image)
        text = mlp(module.lang_inter, module.lang_output, text)
        image = mlp(module.visn_inter, module.visn_output, image)

    def first(relevance: Tensor) -> list[Tensor]:
        whole = torch.zeros_like(text.value)
        whole[0] = relevance[0]
        return [whole]

    pooled = tape.hand_on(tape.linear(Node(text.value[:1], [text], first), model.lxmert.pooler.dense), torch.tanh)
    head = model.answer_head.logit_fc
    hidden = tape.hand_on(tape.hand_on(tape.linear(pooled, head[0]), head[1]), head[2])
    logits = tape.linear(hidden, head[3])
    start = torch.zeros_like(logits.value)
    start[0, index] = 1
    logits.propagate(start)
    return tape.relevance_maps()
