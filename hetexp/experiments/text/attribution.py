"""Stage 1 of encoder-decoders: relevance of source tokens and probabilities without some of them, into the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from hetexp.attribution.attribute import attribute, observe
from hetexp.data.sentences import Sentence, SentenceData
from hetexp.errors import ConfigError, InputError
from hetexp.evaluation.perturbation import FRACTIONS
from hetexp.experiments.engine.chunks import Chunk, batches, make_chunks
from hetexp.experiments.engine.compute import Attributed, compute_missing
from hetexp.experiments.engine.host import on_host
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.session import Session
from hetexp.experiments.text.encode import EncodedSentence, ExplainedToken, collate, encode, require_reader
from hetexp.experiments.text.perturb import ORDERS, Shortened, probabilities, shortened
from hetexp.files import content_hash
from hetexp.models.encoder_decoder import TextToText

log = logging.getLogger("hetexp")

TOKENS = "tokens"  # the unit with a row per explained token
COLUMNS = [
    *("sentence", "group", "kind", "role", "position", "token", "probability", "right"),
    *("source", "words", "deciding"),  # JSON lists
]


def attribute_all(session: Session) -> None:
    """Compute the relevance and probabilities that are not stored yet.

    Raises:
        ConfigError: for a model that does not read text, or a target other than a token's logit.
    """
    adapter = require_reader(session.adapter)
    if session.cfg.target.name != "logit":
        raise ConfigError(
            f"target={session.cfg.target.name} is not for this experiment, which explains given words: use target=logit"
        )
    data: SentenceData = session.data
    session.facts |= {"dataset": data.digest, "store": session.store.key, "checkpoint": session.checkpoint}
    chunks = make_chunks(data.sentences, session.cfg.chunk_size, lambda sentence: content_hash(sentence.record()))
    retry = OutOfMemoryRetry(f"free memory on {adapter.device} or take another device")
    compute_missing(session, chunks, TOKENS, partial(_attribute_chunk, adapter, session.cfg.batch_size, retry))


def _attribute_chunk(
    adapter: TextToText,
    batch_size: int,
    retry: OutOfMemoryRetry,
    chunk: Chunk[Sentence],
    missing: Sequence[MethodSpec],
) -> Attributed:
    """Explained tokens and skips of a chunk, and per method its relevance and probabilities."""
    usable: list[EncodedSentence] = []
    skips = []
    for sentence in chunk.items:
        try:
            usable.append(encode(adapter, sentence))
        except InputError as error:
            log.warning("skipped sentence %s: %s", sentence.id, error)
            skips.append({"sentence": sentence.id, "reason": str(error)})
    usable = [sentence for sentence in usable if sentence.explained]
    methods = {spec.name: spec.method for spec in missing}
    relevance: dict[str, list[Tensor]] = {spec.name: [] for spec in missing}
    rows: list[dict[str, Any]] = []
    pad = adapter.model.config.pad_token_id or 0

    def compute(batch: Sequence[EncodedSentence]) -> list[tuple[list[dict[str, Any]], dict[str, Tensor]]]:
        inputs = collate(pad, [(one.source, one.prefix) for one in batch])
        traces = observe(adapter, inputs, [[e.target for e in one.explained] for one in batch], methods)
        found = on_host(
            [
                {name: x["text"][:, : len(one.source)].float() for name, x in attribute(trace, methods).items()}
                for one, trace in zip(batch, traces, strict=True)
            ]
        )
        written = on_host([_written(one, trace.outputs["logits"]) for one, trace in zip(batch, traces, strict=True)])
        out = []
        for one, maps, read in zip(batch, found, written, strict=True):
            tokens = zip(one.explained, read["probability"].tolist(), read["best"].tolist(), strict=True)
            out.append(([_row(adapter, one, *token) for token in tokens], maps))
        return out

    for batch in batches(usable, batch_size):
        for own, found in retry(compute, batch, lambda one: f"sentence {one.sentence.id}"):
            rows += own
            for name, of_tokens in found.items():
                relevance[name] += list(of_tokens)
    tables = {
        TOKENS: pd.DataFrame(rows, columns=COLUMNS),
        "skips": pd.DataFrame(skips, columns=["sentence", "reason"]),
    }
    return Attributed(tables, _perturbed(adapter, usable, relevance, retry))


def _written(one: EncodedSentence, logits: Tensor) -> dict[str, Tensor]:
    """Probability of every explained token, and the best token in its place [k], from logits [positions, tokens]."""
    own = logits[[e.position for e in one.explained]]
    token = torch.tensor([e.token for e in one.explained], device=logits.device)
    return {"probability": own.double().softmax(-1).gather(1, token[:, None])[:, 0], "best": own.argmax(-1)}


def _row(
    adapter: TextToText, one: EncodedSentence, explained: ExplainedToken, probability: float, best: int
) -> dict[str, Any]:
    """What evaluation needs to know of one explained token: its probability, and the best token in its place."""
    return {
        "sentence": one.sentence.id,
        "group": one.sentence.group,
        "kind": one.sentence.kind,
        "role": explained.role,
        "position": explained.position,
        "token": adapter.words(torch.tensor([explained.token]))[0],
        "probability": probability,
        "right": best == explained.token,
        "source": json.dumps(adapter.words(one.source)),
        "words": json.dumps(one.words),
        "deciding": json.dumps(explained.deciding),
    }


def _perturbed(
    adapter: TextToText,
    sentences: Sequence[EncodedSentence],
    relevance: dict[str, list[Tensor]],
    retry: OutOfMemoryRetry,
) -> dict[str, dict[str, Tensor]]:
    """Per method: relevance, flat over the chunk's explained tokens, and probabilities [tokens, orders, fractions].

    Relevance that is not finite has no order of removal: its probabilities are NaN.
    """
    explained = [(number, one, e) for number, one in enumerate(sentences) for e in one.explained]
    plans: dict[str, list[dict[tuple[str, float], Shortened] | None]] = {
        name: [
            shortened(*of_token, row) if bool(row.isfinite().all()) else None
            for of_token, row in zip(explained, rows, strict=True)
        ]
        for name, rows in relevance.items()
    }
    wanted = [one for plan in plans.values() for variants in plan if variants is not None for one in variants.values()]
    found = probabilities(adapter, sentences, wanted, retry)
    out = {}
    for name, rows in relevance.items():
        table = torch.full((len(explained), len(ORDERS), len(FRACTIONS)), torch.nan, dtype=torch.float64)
        for i, variants in enumerate(plans[name]):
            if variants is not None:
                table[i] = torch.tensor([[found[variants[order, f]] for f in FRACTIONS] for order in ORDERS])
        out[name] = {"relevance": torch.cat(rows) if rows else torch.zeros(0), "probabilities": table}
    return out
