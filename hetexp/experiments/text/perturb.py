"""Probabilities of explained tokens when source tokens are removed: every distinct input runs once, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hetexp.evaluation.perturbation import FRACTIONS, kept_positions
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.experiments.text.encode import EncodedSentence, ExplainedToken, collate
from hetexp.experiments.vqa.perturb import in_batches, tokens_at_once
from hetexp.models.encoder_decoder import TextToText

# Order of removal -> whether the most relevant tokens go first.
ORDERS = {"negative": False, "positive": True}


@dataclass(frozen=True)
class Shortened:
    """An explained token of a sentence, with the source tokens that stay, ascending."""

    sentence: int
    explained: ExplainedToken
    kept: tuple[int, ...]


def shortened(
    number: int, sentence: EncodedSentence, explained: ExplainedToken, relevance: Tensor
) -> dict[tuple[str, float], Shortened]:
    """What is fed for every order and fraction; tokens that stand for no word always stay.

    Args:
        number: of the sentence.
        relevance: of all source tokens [T], finite.
    """
    words = torch.tensor(sentence.words)
    fixed = set(range(len(sentence.source))) - set(sentence.words)
    out = {}
    for order, positive in ORDERS.items():
        for fraction in FRACTIONS:
            stay = words[list(kept_positions(relevance[words], fraction, positive))].tolist()
            out[order, fraction] = Shortened(number, explained, tuple(sorted({*stay, *fixed})))
    return out


@torch.no_grad()
def probabilities(
    adapter: TextToText,
    sentences: Sequence[EncodedSentence],
    wanted: Iterable[Shortened],
    run: OutOfMemoryRetry,
    batch_tokens: int | None = None,
) -> dict[Shortened, float]:
    """Probability of the explained token, given the source tokens that stay and the target up to it.

    Args:
        sentences: the sentences that `wanted` counts.
        wanted: what is fed; repeated entries run once.
        batch_tokens: tokens of one padded batch, at most; by default what suits the device.
    """
    pad = adapter.model.config.pad_token_id or 0

    def compute(part: Sequence[Shortened]) -> list[float]:
        of = [sentences[one.sentence] for one in part]
        rows = [
            (own.source[list(one.kept)], own.prefix[: one.explained.position + 1])
            for own, one in zip(of, part, strict=True)
        ]
        logits, _ = adapter.run(adapter.placed(collate(pad, rows)))
        last = torch.tensor([one.explained.position for one in part], device=logits.device)
        token = torch.tensor([one.explained.token for one in part], device=logits.device)
        every = torch.arange(len(part), device=logits.device)
        found: list[float] = logits[every, last].double().softmax(-1)[every, token].tolist()
        return found

    def lengths(one: Shortened) -> tuple[int, int]:
        return one.explained.position + 1, len(one.kept)

    return in_batches(wanted, lengths, compute, batch_tokens or tokens_at_once(adapter.device), run)
