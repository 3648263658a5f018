"""LXMERT in parts: language encoder, object-relationship encoder, and the cross layers that read an answer.

Perturbed inputs share most of their parts: removing words leaves the regions' encoding as it was and the other way
round. Running the parts on their own lets each be computed once. Together they compute what the whole class does, but
for what no answer reads in the last cross layer: its image side, and all but CLS behind the text's self-attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LxmertForQuestionAnswering


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention mask [B, N] (1 = real) as the term added to scores [B, 1, 1, N]."""
    return (1.0 - mask.to(dtype))[:, None, None] * torch.finfo(dtype).min


def _padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences [n, ...] as one batch [B, N, ...] with N >= 1, and the mask of what is real [B, N]."""
    lengths = torch.tensor([len(p) for p in parts])
    batch = pad_sequence(list(parts), batch_first=True)
    if batch.shape[1] == 0:
        batch = batch.new_zeros(batch.shape[0], 1, *batch.shape[2:])
    return batch, (torch.arange(batch.shape[1])[None] < lengths[:, None]).to(batch.device)


@torch.no_grad()
def encode_texts(model: LxmertForQuestionAnswering, texts: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of the language encoder, [T, d] for every sequence of token ids [T]."""
    ids, mask = _padded(texts)
    hidden = model.lxmert.embeddings(ids.to(model.device), torch.zeros_like(ids, device=model.device))
    additive = _additive(mask.to(model.device), model.dtype)
    for layer in model.lxmert.encoder.layer:
        hidden = layer(hidden, additive)[0]
    return [h[: len(t)] for h, t in zip(hidden, texts, strict=True)]


@torch.no_grad()
def encode_regions(model: LxmertForQuestionAnswering, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Outputs of the object-relationship encoder, [R, d] for every pair of features [R, D] and boxes [R, 4]."""
    features, mask = _padded([f for f, _ in regions])
    boxes, _ = _padded([b for _, b in regions])
    encoder = model.lxmert.encoder
    hidden = encoder.visn_fc(features.to(model.device, model.dtype), boxes.to(model.device, model.dtype))
    additive = _additive(mask.to(model.device), model.dtype)
    for layer in encoder.r_layers:
        hidden = layer(hidden, additive)[0]
    return [h[: len(f)] for h, (f, _) in zip(hidden, regions, strict=True)]


@torch.no_grad()
def answer(model: LxmertForQuestionAnswering, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
    """Answer logits [B, answers] from encoded texts [T, d] and encoded regions [R, d]; R = 0 is an unseen image."""
    text, text_mask = _padded(texts)
    image, image_mask = _padded(regions)
    seen = image_mask.any(1).to(model.dtype)[:, None, None]  # attention over no region returns nothing
    text_add, image_add = _additive(text_mask, model.dtype), _additive(image_mask, model.dtype)
    *layers, last = model.lxmert.encoder.x_layers
    for layer in layers:
        cross = layer.visual_attention
        attended = cross.output(cross.att(text, image, image_add)[0] * seen, text)
        looked = cross.output(cross.att(image, text, text_add)[0], image)
        looked = layer.visn_self_att(looked, image_add)[0]
        image = layer.visn_output(layer.visn_inter(looked), looked)
        attended = layer.lang_self_att(attended, text_add)[0]
        text = layer.lang_output(layer.lang_inter(attended), attended)
    cross, within = last.visual_attention, last.lang_self_att
    attended = cross.output(cross.att(text, image, image_add)[0] * seen, text)
    start = attended[:, :1]
    answering = within.output(within.self(start, attended, text_add)[0], start)
    return model.answer_head(model.lxmert.pooler(last.lang_output(last.lang_inter(answering), answering)))
