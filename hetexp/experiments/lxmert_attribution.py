"""LXMERT, stage 1: relevance of words and regions and the answers to perturbed inputs, into the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hetexp.attribution.methods import attribute, observe
from hetexp.data.coco import ItemError
from hetexp.data.regions import RegionStore, open_regions
from hetexp.data.vqa import (
    Question,
    draw,
    outside_vocabulary,
    read_answers,
    read_questions,
)
from hetexp.errors import CheckpointError, InputError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, variants
from hetexp.experiments.chunks import Chunk, batches, make_chunks
from hetexp.experiments.fill import Attributed, fill
from hetexp.experiments.methods import MethodSpec
from hetexp.experiments.perturb import Sample, answer_variants, full_batch, whole
from hetexp.experiments.session import Session
from hetexp.experiments.store import Store, content_hash, file_hash
from hetexp.experiments.truth import deciding_tokens
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import automatic

log = logging.getLogger("hetexp")

QUESTIONS = "questions"


@dataclass(frozen=True)
class Job:
    """The pieces of one LXMERT run."""

    chunks: list[Chunk[Question]]
    regions: RegionStore
    answers: list[str]
    store: Store


def prepare(session: Session) -> Job:
    """Open questions, regions and the store and cut the questions into chunks."""
    cfg, adapter = session.cfg, session.adapter
    assert isinstance(adapter, LxmertAdapter)
    root = Path(cfg.data.root)
    answers = read_answers(root / cfg.data.answers)
    if len(answers) != adapter.model.config.num_qa_labels:
        raise CheckpointError(
            f"{cfg.data.answers} holds {len(answers)} answers, the checkpoint has "
            f"{adapter.model.config.num_qa_labels} answer logits: use the list it was trained with"
        )
    questions = read_questions(root / cfg.data.questions)
    if cfg.data.draw is not None:
        questions = draw(questions, cfg.data.draw, cfg.seed)
    questions = questions[: cfg.limit]
    regions = open_regions(root / cfg.data.regions)
    store = session.store(odam_feature=cfg.model.odam_feature, tokenizer=_tokenizer_digest(adapter))

    session.facts |= {
        "dataset": file_hash(root / cfg.data.questions),
        "store": store.key,
        "checkpoint": session.checkpoint,
        "answers_outside_vocabulary": outside_vocabulary(questions, answers),
    }

    def digest(question: Question) -> str:
        try:
            features = regions.digest(question.img_id)
        except ItemError as error:
            features = str(error)
        return content_hash([question.record(), features])

    return Job(make_chunks(questions, cfg.chunk_size, digest), regions, answers, store)


def _tokenizer_digest(adapter: LxmertAdapter) -> str | None:
    return None if adapter.tokenizer is None else content_hash(sorted(adapter.tokenizer.get_vocab().items()))


def attribute_all(session: Session, job: Job) -> None:
    """Stage 1: fill the store with relevance and perturbed answers of every method that is not there yet."""
    fill(session, job.chunks, job.store, QUESTIONS, partial(_attribute_chunk, session, job))


def _load(adapter: LxmertAdapter, job: Job, question: Question) -> Sample:
    """Tokens and regions of one question; InputError or ItemError says why it cannot be used."""
    found = job.regions.regions(question.img_id)
    ids = torch.tensor(adapter.tokenize(question.sent), dtype=torch.long)
    features = torch.from_numpy(np.asarray(found.features)).to(adapter.dtype)
    return Sample(ids, features, torch.from_numpy(np.asarray(found.boxes)).to(adapter.dtype), question.img_id)


def _attribute_chunk(session: Session, job: Job, chunk: Chunk[Question], missing: Sequence[MethodSpec]) -> Attributed:
    """Questions, skips and boxes of a chunk, and per method its relevance and answers to perturbed inputs."""
    adapter, cfg = session.adapter, session.cfg
    assert isinstance(adapter, LxmertAdapter)
    usable: list[tuple[Question, Sample]] = []
    skips = []
    for question in chunk.items:
        try:
            usable.append((question, _load(adapter, job, question)))
        except (ItemError, InputError) as error:
            log.warning("skipped question %s: %s", question.question_id, error)
            skips.append({"question_id": str(question.question_id), "reason": str(error)})
    samples = [s for _, s in usable]
    target = automatic(cfg.target.name)
    methods = {s.name: s.method for s in missing}
    relevance: dict[str, list[dict[str, Tensor]]] = {s.name: [] for s in missing}
    predicted: list[int] = []

    def compute(batch: Sequence[Sample]) -> list[tuple[int, dict[str, dict[str, Tensor]]]]:
        traces = observe(adapter, full_batch(batch), [[target]] * len(batch), methods, cfg.model.odam_feature)
        out = []
        for sample, trace in zip(batch, traces, strict=True):
            found = attribute(trace, methods)
            maps = {}
            for name, streams in found.items():
                text = streams["text"][0, : len(sample.input_ids)].float().cpu()
                text[0] = 0  # the explained token's own entry
                maps[name] = {"text": text, "image": streams["image"][0, : len(sample.features)].float().cpu()}
            out.append((int(trace.outputs["logits"].argmax()), maps))
        return out

    for batch in batches(samples, cfg.batch_size):
        for best, maps in session.in_memory(compute, batch, lambda s: f"a question on image {s.image}"):
            predicted.append(best)
            for name, found in maps.items():
                relevance[name].append(found)
    questions = pd.DataFrame(
        [_question_row(adapter, q, sample, p) for (q, sample), p in zip(usable, predicted, strict=True)],
        columns=_QUESTION_COLUMNS,
    )
    tables = {"questions": questions, "skips": pd.DataFrame(skips, columns=["question_id", "reason"])}
    boxes = torch.cat([s.boxes for s in samples]).float() if samples else torch.zeros(0, 4)
    return Attributed(tables, _perturb(session, samples, relevance), {"boxes": boxes})


_QUESTION_COLUMNS = [
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


def _question_row(adapter: LxmertAdapter, question: Question, sample: Sample, predicted: int) -> dict[str, Any]:
    """What evaluation and figures need to know of one question; nested values as JSON."""
    assert adapter.tokenizer is not None
    spans = question.extra.get("words", [])
    return {
        "question_id": str(question.question_id),
        "img_id": question.img_id,
        "sent": question.sent,
        "question_type": question.question_type or "",
        "tokens": json.dumps(adapter.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())),
        "n_regions": len(sample.features),
        "predicted": predicted,
        "label": json.dumps(question.label, sort_keys=True),
        "annotators": json.dumps(question.extra.get("answers", [])),
        "deciding_tokens": json.dumps(deciding_tokens(spans, adapter.offsets(question.sent)) if spans else []),
        "deciding_objects": json.dumps(question.extra.get("objects", [])),
    }


def _perturb(
    session: Session, samples: Sequence[Sample], relevance: dict[str, list[dict[str, Tensor]]]
) -> dict[str, dict[str, Tensor]]:
    """Per method: relevance, flat over the chunk's samples, and answers [samples, panels, fractions].

    A sample whose relevance is not finite has no order of removal: its answers are -1.
    """
    plans: dict[str, list[dict[tuple[str, float], Any] | None]] = {}
    for name, rows in relevance.items():
        plans[name] = [
            variants(r["text"], r["image"]) if all(bool(x.isfinite().all()) for x in r.values()) else None for r in rows
        ]
    wanted = [
        [whole(s)] + [v for plan in plans.values() if (p := plan[i]) is not None for v in p.values()]
        for i, s in enumerate(samples)
    ]
    assert isinstance(session.adapter, LxmertAdapter)
    answers = answer_variants(session.adapter, samples, wanted, run=session.in_memory)
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
