"""Sample sentences: what the model writes for the first sentence of every kind, explained."""

from __future__ import annotations

from hetexp.api import explain
from hetexp.data.sentences import Sentence, SentenceData
from hetexp.experiments.engine.samples import DEFAULT_ITEMS, shown_methods
from hetexp.experiments.engine.session import Session
from hetexp.experiments.own_inputs import MOST_WRITTEN, name_tokens
from hetexp.experiments.text.encode import require_reader
from hetexp.explanation import Explanation
from hetexp.generated import written_by


def samples(session: Session) -> dict[str, Explanation]:
    """The first sentence of every kind, `limit` at most, with every token that the model writes explained."""
    adapter, data = require_reader(session.adapter), session.data
    methods = shown_methods(session)
    out = {}
    for sentence in _of_every_kind(data, session.cfg.limit or DEFAULT_ITEMS):
        inputs, targets = written_by(adapter, adapter.prepare(sentence.source), MOST_WRITTEN)
        explained = explain(adapter, inputs, methods, targets)
        name_tokens(explained, adapter, inputs)
        explained.details |= {"item": sentence.id, "source": sentence.source, "target": sentence.target}
        out[sentence.id] = explained
    return out


def _of_every_kind(data: SentenceData, most: int) -> list[Sentence]:
    """The first sentence of each kind; where there are fewer kinds, the first sentences follow."""
    first: dict[str, Sentence] = {}
    for sentence in data.sentences:
        first.setdefault(sentence.kind, sentence)
    rest = [sentence for sentence in data.sentences if sentence is not first[sentence.kind]]
    return [*first.values(), *rest][:most]
