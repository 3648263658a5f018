"""Both stages of a VQA run: relevance and perturbed answers into the store, then what is measured of them."""

from __future__ import annotations

from hetexp.experiments.engine.costs import measure_costs
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.attribution import attribute_all
from hetexp.experiments.vqa.costs import priced
from hetexp.experiments.vqa.measure import measure_all


def run(session: Session) -> list[Result]:
    """What is measured; nothing for a shard, which only fills its part of the store."""
    if session.cfg.costs:
        measure_costs(session, priced(session, session.cfg.costs))
    attribute_all(session)
    return [] if session.is_shard else measure_all(session)
