"""Answers to perturbed inputs: every distinct part encoded once, every distinct input answered once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hetexp.evaluation.perturbation import Variant
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.models.protocols import Answerer, EncodedQuestion

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


def tokens_at_once(device: torch.device) -> int:
    """Tokens of one batch: few enough for activations that stay in a cache, or many to keep an accelerator busy."""
    return 2048 if device.type == "cpu" else 2**15


def answer_variants(
    adapter: Answerer,
    samples: Sequence[EncodedQuestion],
    wanted: Sequence[Iterable[Variant]],
    batch_tokens: int | None = None,
    run: OutOfMemoryRetry | None = None,
) -> list[dict[Variant, int]]:
    """Top-1 answer of every distinct variant of every sample.

    Args:
        wanted: per sample the variants to answer; repeated ones run once.
        batch_tokens: tokens of one padded batch, at most; by default what suits the device.
        run: how batches that do not fit into memory are treated.

    Returns:
        per sample: variant -> index of the answer with the largest logit.
    """
    run = run or OutOfMemoryRetry("lower batch_tokens")
    batch_tokens = batch_tokens or tokens_at_once(adapter.device)
    jobs = [(row, v) for row, variants in enumerate(wanted) for v in dict.fromkeys(variants)]
    text_keys = {job: (job[0], job[1].text) for job in jobs}
    region_keys = {job: (samples[job[0]].image or job[0], job[1].regions) for job in jobs}
    owner = {region_keys[job]: job[0] for job in jobs}

    def encode_text_keys(keys: Sequence[tuple[int, tuple[int, ...]]]) -> list[Tensor]:
        return adapter.encode_texts([samples[row].input_ids[list(kept)] for row, kept in keys])

    def encode_region_keys(keys: Sequence[tuple[str | int, tuple[int, ...]]]) -> list[Tensor]:
        parts = [(samples[owner[key]], list(key[1])) for key in keys]
        return adapter.encode_regions([(s.features[kept], s.boxes[kept]) for s, kept in parts])

    texts = in_batches(text_keys.values(), lambda key: (len(key[1]),), encode_text_keys, batch_tokens, run)
    regions = in_batches(region_keys.values(), lambda key: (len(key[1]),), encode_region_keys, batch_tokens, run)

    def answer_jobs(part: Sequence[tuple[int, Variant]]) -> list[int]:
        logits = adapter.answer_parts(
            [texts[text_keys[job]] for job in part], [regions[region_keys[job]] for job in part]
        )
        return logits.argmax(-1).tolist()

    answers = in_batches(jobs, lambda job: (len(job[1].regions), len(job[1].text)), answer_jobs, batch_tokens, run)
    return [{v: answers[row, v] for r, v in jobs if r == row} for row in range(len(samples))]


def in_batches(
    keys: Iterable[Key],
    lengths: Callable[[Key], tuple[int, ...]],
    compute: Callable[[Sequence[Key]], Sequence[Result]],
    batch_tokens: int,
    run: OutOfMemoryRetry,
) -> dict[Key, Result]:
    """compute() over the distinct keys, in batches of equal or similar lengths that hold few padded tokens."""
    ordered = sorted(dict.fromkeys(keys), key=lengths)
    out: dict[Key, Result] = {}
    start = 0
    while start < len(ordered):
        longest = [max(1, n) for n in lengths(ordered[start])]
        stop = start + 1
        while stop < len(ordered):
            longest = [max(a, b) for a, b in zip(longest, lengths(ordered[stop]), strict=True)]
            if sum(longest) * (stop + 1 - start) > batch_tokens:
                break
            stop += 1
        part = ordered[start:stop]
        out.update(zip(part, run(compute, part, lambda _: "one perturbed input"), strict=True))
        start = stop
    return out


def whole(sample: EncodedQuestion) -> Variant:
    """The unperturbed input of a sample."""
    return Variant(tuple(range(len(sample.input_ids))), tuple(range(len(sample.features))))
