"""Both stages of a run: relevance and probabilities into the store, then what is measured of them."""

from __future__ import annotations

from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.text.attribution import attribute_all
from hetexp.experiments.text.measure import measure_all


def run(session: Session) -> list[Result]:
    """What is measured; nothing for a shard, which only fills its part of the store."""
    attribute_all(session)
    return [] if session.is_shard else measure_all(session)
