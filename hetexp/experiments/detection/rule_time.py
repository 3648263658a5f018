"""How long each method's rule takes on one and the same observed attention: what it costs beyond the passes.

Times depend on the machine and differ from run to run; only their order is meant to last.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from hetexp.attribution.attribute import attribute, observe
from hetexp.attribution.method import Method
from hetexp.data.coco import ItemError
from hetexp.experiments.engine.costs import seconds_of
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.models.protocols import Detector
from hetexp.models.trace import AttentionTrace
from hetexp.targets import Logit

REPEATS = 7  # of each method on each image, one after the other; the shortest counts


def rule_time(session: Session, record: ItemRecord) -> list[Result]:
    """Time from the observed attention and its gradients to relevance, for all kept detections of an image together.

    In percent of a pass of the detector over the image, taken as often. It holds the correction of maps and their
    propagation, not the forward and backward passes, which all these methods share.
    """
    adapter: Detector = session.adapter
    methods = {spec.name: spec.method for spec in session.methods}
    shares: dict[str, list[float]] = {name: [] for name in methods}
    images: list[str] = []
    for item in session.data.items:
        try:
            inputs = adapter.prepare([session.data.load(item)])
        except ItemError:
            continue  # said when its relevance was computed
        (found,) = adapter.detect(inputs)
        kept = (found.scores > adapter.score_threshold).nonzero().flatten().tolist()
        if not kept:
            continue
        (trace,) = observe(adapter, inputs, [[Logit(int(found.labels[q]), q) for q in kept]], methods)
        seconds = _shortest(trace, methods)
        whole = min(seconds_of(partial(adapter.detect, inputs)) for _ in range(REPEATS))
        images.append(str(item.image_id))
        for name, value in seconds.items():
            shares[name].append(value / whole)
    return [
        record.mean(spec, ItemValues("cost", "rule_time", np.array(shares[spec.name]), images, images))
        for spec in session.methods
    ]


def _shortest(trace: AttentionTrace, methods: Mapping[str, Method]) -> dict[str, float]:
    """Seconds of each method, in turn so that a busy machine slows all alike."""
    rounds = [
        {name: seconds_of(partial(attribute, trace, {name: method})) for name, method in methods.items()}
        for _ in range(REPEATS)
    ]
    return {name: min(one[name] for one in rounds) for name in methods}
