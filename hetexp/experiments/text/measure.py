"""Stage 2 of encoder-decoders: what is measured of every method, from the store alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hetexp.errors import ConfigError
from hetexp.experiments.engine.chunks import report_skips
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.text.attribution import TOKENS
from hetexp.experiments.text.metrics import METRICS, Outcome, deciding, get_metric, oracle
from hetexp.experiments.vqa.metrics import Measured


@dataclass(frozen=True)
class Control:
    """A control by its name in results; it has no parameters."""

    name: str

    def parameter(self, name: str) -> str:
        """Nothing."""
        return ""


ORACLE = Control("oracle")


def measure_all(session: Session) -> list[Result]:
    """How often the model writes the explained tokens itself, then every metric of every method, and the controls.

    Raises:
        ConfigError: for an unknown metric or control.
        DataError: if every sentence was skipped.
    """
    cfg = session.cfg
    metrics = [get_metric(name) for name in cfg.metrics or METRICS]
    unknown = [name for name in cfg.controls or () if name != ORACLE.name]
    if unknown:
        raise ConfigError(
            f"unknown control {unknown[0]!r}. Available for models that write text: {ORACLE.name}; noise is "
            "methods=[...,random]"
        )
    first, skipped = read_outcome(session, session.methods[0])
    report_skips("sentences", first.tokens["sentence"].nunique(), skipped)
    record = ItemRecord(sorted(set(first.tokens["group"])), cfg.bootstrap, cfg.seed)
    right = first.tokens["right"].to_numpy(dtype=float)
    rows = [record.mean(None, _items(first, Measured("", "accuracy", right)))]
    for spec in session.methods:
        outcome = first if spec is session.methods[0] else read_outcome(session, spec)[0]
        rows += [record.mean(spec, _items(outcome, measured)) for metric in metrics for measured in metric(outcome)]
        session.facts.setdefault("counts", {})[spec.name] = {
            "tokens": len(outcome.tokens),
            "skipped_sentences": len(skipped),
            "not_finite": int(np.isnan(outcome.probabilities).any(axis=(1, 2)).sum()),
        }
    if cfg.controls and deciding in metrics:
        known = replace(first, relevance=oracle(first))
        rows += [record.mean(ORACLE, _items(known, measured)) for measured in deciding(known)]
    record.write(session.folder)
    return rows


def _items(outcome: Outcome, measured: Measured) -> ItemValues:
    rows = np.arange(len(outcome.tokens)) if measured.rows is None else measured.rows
    of = outcome.tokens.iloc[rows]
    names = [f"{sentence}:{position}" for sentence, position in zip(of["sentence"], of["position"], strict=True)]
    return ItemValues(measured.panel, measured.metric, measured.values, names, list(of["group"]))


def read_outcome(session: Session, spec: MethodSpec) -> tuple[Outcome, list[str]]:
    """The joined chunks of one method, in item order, and why sentences were skipped."""
    tables, relevance, found, skipped = [], [], [], []
    for chunk in session.chunk_names:
        tokens = session.store.read(chunk, TOKENS).tables
        unit = session.store.read(chunk, spec.unit, spec.settings)
        frame = tokens[TOKENS]
        lists = {name: [json.loads(x) for x in frame[name]] for name in ("source", "words", "deciding")}
        tables.append(frame.assign(**lists))
        skipped += tokens["skips"]["reason"].tolist()
        relevance += [x.double().numpy() for x in unit.tensors["relevance"].split(list(map(len, lists["source"])))]
        found.append(unit.tensors["probabilities"].numpy())
    return Outcome(pd.concat(tables, ignore_index=True), relevance, np.concatenate(found)), skipped
