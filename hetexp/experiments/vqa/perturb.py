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

Text = tuple[int, ...]  # token ids
Name = str | int  # of an image, or the number of a sample whose image has none
Regions = tuple[Name, tuple[int, ...]]  # an image and which of its regions are kept
Job = tuple[Text, Regions]  # a distinct input


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
        wanted: per sample the variants to answer; inputs that are the same run once, whoever asks for them.
        batch_tokens: tokens of one padded batch, at most; by default what suits the device.
        run: how batches that do not fit into memory are treated.

    Returns:
        per sample: variant -> index of the answer with the largest logit.
    """
    run = run or OutOfMemoryRetry("lower batch_tokens")
    batch_tokens = batch_tokens or tokens_at_once(adapter.device)
    ids = [tuple(sample.input_ids.tolist()) for sample in samples]
    images = [sample.image or row for row, sample in enumerate(samples)]
    owner = dict(zip(images, samples, strict=True))

    def job_of(row: int, variant: Variant) -> Job:
        return tuple(ids[row][i] for i in variant.text), (images[row], variant.regions)

    def encode_texts(texts: Sequence[Text]) -> list[Tensor]:
        return adapter.encode_texts([torch.tensor(text) for text in texts])

    def embed_images(names: Sequence[Name]) -> list[Tensor]:
        return adapter.embed_regions([(owner[name].features, owner[name].boxes) for name in names])

    def encode_regions(parts: Sequence[Regions]) -> list[Tensor]:
        return adapter.encode_regions([embedded[name][list(kept)] for name, kept in parts])

    def answer(jobs: Sequence[Job]) -> list[int]:
        logits = adapter.answer_parts([texts[text] for text, _ in jobs], [regions[part] for _, part in jobs])
        return logits.argmax(-1).tolist()

    jobs = [{variant: job_of(row, variant) for variant in variants} for row, variants in enumerate(wanted)]
    asked = list(dict.fromkeys(job for of_sample in jobs for job in of_sample.values()))
    texts = in_batches([text for text, _ in asked], lambda text: (len(text),), encode_texts, batch_tokens, run)
    embedded = in_batches(images, lambda name: (len(owner[name].features),), embed_images, batch_tokens, run)
    regions = in_batches([part for _, part in asked], lambda part: (len(part[1]),), encode_regions, batch_tokens, run)
    answers = in_batches(asked, lambda job: (len(job[1][1]), len(job[0])), answer, batch_tokens, run)
    return [{variant: answers[job] for variant, job in of_sample.items()} for of_sample in jobs]


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
