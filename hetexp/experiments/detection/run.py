"""Both stages of a detection run: relevance into the store, then masks and their scores from it."""

from __future__ import annotations

from functools import partial

from hetexp.experiments.detection.attribution import attribute_all
from hetexp.experiments.detection.costs import priced
from hetexp.experiments.detection.overlays import overlays
from hetexp.experiments.detection.scores import score_all
from hetexp.experiments.engine.costs import measure_costs
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session


def run(session: Session) -> list[Result]:
    """What is measured; nothing for a shard, which only fills its part of the store."""
    if session.cfg.costs:
        measure_costs(session, priced(session, session.cfg.costs))
    attribute_all(session)
    if session.is_shard:
        return []
    session.pictures = partial(overlays, session)
    return score_all(session)
