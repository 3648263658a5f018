"""Answers to perturbed inputs: duplicates run once, the rest in length-sorted padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hetexp.evaluation.perturbation import Variant
from hetexp.models.lxmert import LxmertAdapter


@dataclass(frozen=True)
class Sample:
    """One question with its regions, unpadded."""

    input_ids: Tensor  # [T]
    features: Tensor  # [R, D]
    boxes: Tensor  # [R, 4]


def answer_variants(
    adapter: LxmertAdapter, samples: Sequence[Sample], wanted: Sequence[Iterable[Variant]], batch_tokens: int = 8192
) -> list[dict[Variant, int]]:
    """Top-1 answer of every distinct variant of every sample.

    Args:
        wanted: per sample the variants to answer; repeated ones run once.
        batch_tokens: text tokens plus regions of one padded batch, at most.

    Returns:
        per sample: variant -> index of the answer with the largest logit.
    """
    jobs = [(row, v) for row, variants in enumerate(wanted) for v in dict.fromkeys(variants)]
    # equal lengths lie together, so that padding costs little
    jobs.sort(key=lambda job: (len(job[1].regions), len(job[1].text), job[0]))
    out: list[dict[Variant, int]] = [{} for _ in samples]
    start = 0
    while start < len(jobs):
        stop = start + 1
        longest = _tokens(jobs[start][1])
        while stop < len(jobs):
            longest = max(longest, _tokens(jobs[stop][1]))
            if longest * (stop + 1 - start) > batch_tokens:
                break
            stop += 1
        part = jobs[start:stop]
        logits = adapter.predict(collate([(samples[row], v) for row, v in part]))
        for (row, variant), answer in zip(part, logits.argmax(-1).tolist(), strict=True):
            out[row][variant] = answer
        start = stop
    return out


def _tokens(variant: Variant) -> int:
    return len(variant.text) + max(1, len(variant.regions))


def collate(parts: Sequence[tuple[Sample, Variant]]) -> dict[str, Tensor]:
    """One padded batch: kept text tokens re-embedded at their new positions, kept regions; 0 marks padding."""
    n = len(parts)
    length = max(len(v.text) for _, v in parts)
    regions = max(1, *(len(v.regions) for _, v in parts)) if parts else 1
    first = parts[0][0]
    batch = {
        "input_ids": torch.zeros(n, length, dtype=torch.long),
        "attention_mask": torch.zeros(n, length, dtype=torch.long),
        "visual_feats": first.features.new_zeros(n, regions, first.features.shape[1]),
        "visual_pos": first.boxes.new_zeros(n, regions, 4),
        "visual_attention_mask": torch.zeros(n, regions, dtype=torch.long),
    }
    for row, (sample, variant) in enumerate(parts):
        text, kept = list(variant.text), list(variant.regions)
        batch["input_ids"][row, : len(text)] = sample.input_ids[text]
        batch["attention_mask"][row, : len(text)] = 1
        batch["visual_feats"][row, : len(kept)] = sample.features[kept]
        batch["visual_pos"][row, : len(kept)] = sample.boxes[kept]
        batch["visual_attention_mask"][row, : len(kept)] = 1
    return batch


def whole(sample: Sample) -> Variant:
    """The unperturbed input of a sample."""
    return Variant(tuple(range(len(sample.input_ids))), tuple(range(len(sample.features))))


def full_batch(samples: Sequence[Sample]) -> Mapping[str, Tensor]:
    """One padded batch of whole samples."""
    return collate([(s, whole(s)) for s in samples])
