"""LXMERT in parts: language encoder, object-relationship encoder, and the cross layers that read an answer.

Perturbed inputs share most of their parts: removing words leaves the regions' encoding as it was and the other way
round. Running the parts on their own lets each be computed once. Together they compute what the whole class does, but
for what no answer reads in the last cross layer: its image side, and all but CLS behind the text's self-attention.
Sequences are packed (see `hetexp.models.packed`): no padding is computed, and no region stands in for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import LxmertForQuestionAnswering

from hetexp.models.packed import Block, attended, blocks, by_length, inverse, pack_distinct, projected


@torch.no_grad()
def encode_texts(model: LxmertForQuestionAnswering, texts: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of the language encoder, [T, d] for every sequence of token ids [T]."""
    lengths = [len(t) for t in texts]
    order = by_length(lengths)
    ordered, start = [texts[i] for i in order], 0
    hidden, among = [], blocks(*[[lengths[i] for i in order]] * 2)
    for n, _, _ in among:
        ids = torch.stack(ordered[start : start + n]).to(model.device)
        hidden.append(model.lxmert.embeddings(ids, torch.zeros_like(ids)).flatten(0, 1))
        start += n
    return _unpacked(_encoded(model, model.lxmert.encoder.layer, torch.cat(hidden), among), lengths, order)


@torch.no_grad()
def embed_regions(model: LxmertForQuestionAnswering, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Per pair of features [R, D] and boxes [R, 4] what depends on each region alone, whichever others are kept.

    Returns:
        the embedded regions, and behind them what the first layer makes of them: queries, keys, values [R, 4 d].
    """
    lengths = [len(features) for features, _ in regions]
    features, boxes = (torch.cat(x).to(model.device, model.dtype) for x in zip(*regions, strict=True))
    encoder = model.lxmert.encoder
    hidden = encoder.visn_fc(features, boxes)
    first = encoder.r_layers[:1]
    return list(torch.cat([hidden, *(_projected(layer.attention.self, hidden) for layer in first)], -1).split(lengths))


@torch.no_grad()
def encode_regions(model: LxmertForQuestionAnswering, embedded: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of the object-relationship encoder, [R, d] for every set of embedded regions [R, 4 d]."""
    lengths = [len(e) for e in embedded]
    order = by_length(lengths)
    among = blocks(*[[lengths[i] for i in order]] * 2)
    rows, width = torch.cat([embedded[i] for i in order]), model.config.hidden_size
    layers = model.lxmert.encoder.r_layers
    return _unpacked(_encoded(model, layers, rows[:, :width], among, rows[:, width:]), lengths, order)


@torch.no_grad()
def answer(model: LxmertForQuestionAnswering, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
    """Answer logits [B, answers] from encoded texts [T, d] and encoded regions [R, d]; R = 0 is an unseen image."""
    order = by_length([len(r) for r in regions], [len(t) for t in texts])
    texts, regions = [texts[i] for i in order], [regions[i] for i in order]
    n_text, n_image = [len(t) for t in texts], [len(r) for r in regions]
    heads, n_words = model.config.num_attention_heads, sum(n_text)
    within_text, within_image = blocks(n_text, n_text), blocks(n_image, n_image)
    text_image, image_text = blocks(n_text, n_image), blocks(n_image, n_text)

    # A part that recurs (the text when regions are removed, and the other way round) is projected once.
    hidden, rows = pack_distinct([*texts, *regions])
    *layers, last = model.lxmert.encoder.x_layers
    both = hidden.index_select(0, rows)
    for number, layer in enumerate(layers):
        cross = layer.visual_attention
        asked = _projected(cross.att, both) if number else _projected(cross.att, hidden).index_select(0, rows)
        query, key, value = asked.chunk(3, -1)
        (text_q, image_q), (text_k, image_k), (text_v, image_v) = (
            x.tensor_split([n_words]) for x in (query, key, value)
        )
        seen = (
            attended(text_q, image_k, image_v, text_image, heads),
            attended(image_q, text_k, text_v, image_text, heads),
        )
        text, image = cross.output(torch.cat(seen), both).tensor_split([n_words])
        text = _attended(layer.lang_self_att, text, within_text, heads)
        image = _attended(layer.visn_self_att, image, within_image, heads)
        both = torch.cat(
            (layer.lang_output(layer.lang_inter(text), text), layer.visn_output(layer.visn_inter(image), image))
        )
    text, image = both.tensor_split([n_words])
    cross, within = last.visual_attention, last.lang_self_att
    key, value = projected((cross.att.key, cross.att.value), image).chunk(2, -1)
    text = cross.output(attended(cross.att.query(text), key, value, text_image, heads), text)
    start = text[list(accumulate(n_text[:-1], initial=0))]
    key, value = projected((within.self.key, within.self.value), text).chunk(2, -1)
    seen_by_start = attended(within.self.query(start), key, value, blocks([1] * len(texts), n_text), heads)
    start = within.output(seen_by_start, start)
    logits = model.answer_head(model.lxmert.pooler(last.lang_output(last.lang_inter(start), start)[:, None]))
    return logits[inverse(order)]


def _projected(attention: Any, hidden: Tensor) -> Tensor:
    """Queries, keys and values of an attention module, side by side [N, 3 d]."""
    return projected((attention.query, attention.key, attention.value), hidden)


def _attended(block: Any, hidden: Tensor, among: Sequence[Block], heads: int, asked: Tensor | None = None) -> Tensor:
    """A layer's self-attention with what follows it, on packed rows [N, d]; `asked`: its projections if known."""
    query, key, value = (_projected(block.self, hidden) if asked is None else asked).chunk(3, -1)
    found: Tensor = block.output(attended(query, key, value, among, heads), hidden)
    return found


def _encoded(
    model: LxmertForQuestionAnswering,
    layers: Sequence[Any],
    hidden: Tensor,
    among: Sequence[Block],
    asked: Tensor | None = None,
) -> Tensor:
    """Packed rows [N, d] after the layers of one encoder; `asked`: projections of the first if known."""
    for number, layer in enumerate(layers):
        known = None if number else asked
        seen = _attended(layer.attention, hidden, among, model.config.num_attention_heads, known)
        hidden = layer.output(layer.intermediate(seen), seen)
    return hidden


def _unpacked(rows: Tensor, lengths: Sequence[int], order: Sequence[int]) -> list[Tensor]:
    """The sequences of packed rows [N, d] in the order in which they were given."""
    parts = rows.split([lengths[i] for i in order])
    return [parts[i] for i in inverse(order)]
