"""Stage 1 of question answering: relevance of words and regions and the answers to perturbed inputs, into the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hetexp.attribution.attribute import attribute, observe
from hetexp.data.coco import ItemError
from hetexp.data.regions import RegionStore
from hetexp.data.vqa import Question, outside_vocabulary
from hetexp.data.vqa_dataset import VqaData
from hetexp.errors import CheckpointError, InputError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, variants
from hetexp.experiments.engine.chunks import Chunk, batches, make_chunks
from hetexp.experiments.engine.compute import Attributed, compute_missing
from hetexp.experiments.engine.host import on_host
from hetexp.experiments.engine.memory import OutOfMemoryRetry
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.perturb import answer_variants, whole
from hetexp.experiments.vqa.regions import regions_for
from hetexp.files import content_hash
from hetexp.models.protocols import Answerer, EncodedQuestion

log = logging.getLogger("hetexp")

QUESTIONS = "questions"


def attribute_all(session: Session) -> None:
    """Compute the relevance and perturbed answers that are not stored yet."""
    adapter: Answerer = session.adapter
    data: VqaData = session.data
    if len(data.answers) != adapter.n_answers:
        raise CheckpointError(
            f"{session.cfg.data.answers} holds {len(data.answers)} answers, the checkpoint has {adapter.n_answers} "
            "answer logits: use the list it was trained with"
        )
    if adapter.answers is not None and adapter.answers != data.answers:
        i = next(i for i, pair in enumerate(zip(adapter.answers, data.answers, strict=True)) if pair[0] != pair[1])
        raise CheckpointError(
            f"answer {i} is {data.answers[i]!r} in {session.cfg.data.answers} and {adapter.answers[i]!r} in the "
            "checkpoint: use the list it was trained with"
        )
    regions = regions_for(session)
    session.facts |= {
        "dataset": data.digest,
        "store": session.store.key,
        "checkpoint": session.checkpoint,
        "answers_outside_vocabulary": outside_vocabulary(data.questions, data.answers),
    }

    def digest(question: Question) -> str:
        try:
            features = regions.digest(question.img_id)
        except ItemError as error:
            features = str(error)
        return content_hash([question.record(), features])

    chunks = make_chunks(data.questions, session.cfg.chunk_size, digest)
    retry = OutOfMemoryRetry(f"free memory on {adapter.device} or take another device")
    compute_missing(session, chunks, QUESTIONS, partial(_attribute_chunk, session, regions, retry))


def load_question(adapter: Answerer, regions: RegionStore, question: Question) -> EncodedQuestion:
    """Tokens and regions of one question; InputError or ItemError says why it cannot be used."""
    found = regions.regions(question.img_id)
    features, boxes = (torch.from_numpy(np.asarray(x)) for x in (found.features, found.boxes))
    return adapter.encode(question.sent, features, boxes, question.img_id)


def _attribute_chunk(
    session: Session,
    regions: RegionStore,
    retry: OutOfMemoryRetry,
    chunk: Chunk[Question],
    missing: Sequence[MethodSpec],
) -> Attributed:
    """Questions, skips and boxes of a chunk, and per method its relevance and answers to perturbed inputs."""
    adapter: Answerer = session.adapter
    usable: list[tuple[Question, EncodedQuestion]] = []
    skips = []
    for question in chunk.items:
        try:
            usable.append((question, load_question(adapter, regions, question)))
        except (ItemError, InputError) as error:
            log.warning("skipped question %s: %s", question.question_id, error)
            skips.append({"question_id": str(question.question_id), "reason": str(error)})
    samples = [s for _, s in usable]
    target = session.target
    methods = {s.name: s.method for s in missing}
    relevance: dict[str, list[dict[str, Tensor]]] = {s.name: [] for s in missing}
    predicted: list[int] = []

    def compute(batch: Sequence[EncodedQuestion]) -> list[tuple[int, dict[str, dict[str, Tensor]]]]:
        traces = observe(adapter, adapter.collate(batch), [[target]] * len(batch), methods)
        tokens = [{"text": len(sample.input_ids), "image": len(sample.features)} for sample in batch]
        found = on_host(
            [
                {
                    (name, source): streams[source][0, :n].float()
                    for name, streams in attribute(trace, methods).items()
                    for source, n in sizes.items()
                }
                for trace, sizes in zip(traces, tokens, strict=True)
            ]
        )
        best = on_host([{"best": trace.outputs["logits"].argmax()} for trace in traces])
        return [
            (int(one["best"]), {name: {source: maps[name, source] for source in sizes} for name in methods})
            for one, maps, sizes in zip(best, found, tokens, strict=True)
        ]

    for batch in batches(samples, session.cfg.batch_size):
        for best, maps in retry(compute, batch, lambda s: f"a question on image {s.image}"):
            predicted.append(best)
            for name, found in maps.items():
                relevance[name].append(found)
    questions = pd.DataFrame(
        [_question_row(adapter, q, sample, p) for (q, sample), p in zip(usable, predicted, strict=True)],
        columns=QUESTION_COLUMNS,
    )
    tables = {"questions": questions, "skips": pd.DataFrame(skips, columns=["question_id", "reason"])}
    boxes = torch.cat([s.boxes for s in samples]).float() if samples else torch.zeros(0, 4)
    perturbed = _perturb(adapter, samples, relevance, retry, session.cfg.perturb)
    return Attributed(tables, perturbed, {"boxes": boxes})


QUESTION_COLUMNS = [
    "question_id",
    "img_id",
    "sent",
    "question_type",
    "tokens",
    "n_regions",
    "predicted",
    "label",
    "annotators",
    "deciding_tokens",
    "deciding_objects",
]


def _question_row(adapter: Answerer, question: Question, sample: EncodedQuestion, predicted: int) -> dict[str, Any]:
    """What evaluation and figures need to know of one question; nested values as JSON."""
    spans = question.extra.get("words", [])
    return {
        "question_id": str(question.question_id),
        "img_id": question.img_id,
        "sent": question.sent,
        "question_type": question.question_type or "",
        "tokens": json.dumps(adapter.question_tokens(sample)),
        "n_regions": len(sample.features),
        "predicted": predicted,
        "label": json.dumps(question.label, sort_keys=True),
        "annotators": json.dumps(question.extra.get("answers", [])),
        "deciding_tokens": json.dumps(deciding_tokens(spans, adapter.offsets(question.sent)) if spans else []),
        "deciding_objects": json.dumps(question.extra.get("objects", [])),
    }


def _perturb(
    adapter: Answerer,
    samples: Sequence[EncodedQuestion],
    relevance: dict[str, list[dict[str, Tensor]]],
    retry: OutOfMemoryRetry,
    perturb: bool,
) -> dict[str, dict[str, Tensor]]:
    """Per method: relevance, flat over the chunk's samples, and answers [samples, panels, fractions].

    A sample whose relevance is not finite has no order of removal: its answers are -1. So are all without `perturb`.
    """
    plans: dict[str, list[dict[tuple[str, float], Any] | None]] = {}
    for name, rows in relevance.items():
        plans[name] = [
            variants(r["text"], r["image"]) if perturb and all(bool(x.isfinite().all()) for x in r.values()) else None
            for r in rows
        ]
    wanted = [
        [whole(s)] + [v for plan in plans.values() if (p := plan[i]) is not None for v in p.values()]
        for i, s in enumerate(samples)
    ]
    answers = answer_variants(adapter, samples, wanted, run=retry)
    out = {}
    for name, rows in relevance.items():
        table = torch.full((len(samples), len(PANELS), len(FRACTIONS)), -1, dtype=torch.int32)
        for i, plan in enumerate(plans[name]):
            if plan is not None:
                flat = [answers[i][plan[panel, f]] for panel in PANELS for f in FRACTIONS]
                table[i] = torch.tensor(flat, dtype=torch.int32).reshape(len(PANELS), len(FRACTIONS))
        out[name] = {
            "text": torch.cat([r["text"] for r in rows]) if rows else torch.zeros(0),
            "image": torch.cat([r["image"] for r in rows]) if rows else torch.zeros(0),
            "answers": table,
        }
    return out


def deciding_tokens(spans: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the tokens whose characters overlap a deciding span; specials have the empty offset (0, 0)."""
    return [t for t, (start, end) in enumerate(offsets) if end > start and any(start < b and a < end for a, b in spans)]
