"""Cascading randomisation of weights: a map that stays as it was says nothing of what the model has learnt.

Adebayo et al., NeurIPS 2018 (doi:10.48550/arXiv.1810.03292). It is a check and no ranking (Binder et al., CVPR 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from hetexp.attribution.attribute import attribute, observe
from hetexp.data.coco import ItemError
from hetexp.evaluation.similarity import rank_correlation
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.results import Result
from hetexp.experiments.engine.session import Session
from hetexp.models.observe import hooked
from hetexp.models.protocols import Detector
from hetexp.models.trace import Target
from hetexp.targets import Logit


def randomisation(session: Session, record: ItemRecord) -> list[Result]:
    """Rank correlation of every map with that of the model whose last stages have weights at random.

    The class and query that the trained model found are explained throughout.
    """
    adapter: Detector = session.adapter
    methods = {spec.name: spec.method for spec in session.methods}
    inputs, items = [], []
    for item in session.data.items:
        try:
            inputs.append(adapter.prepare([session.data.load(item)]))
            items.append(str(item.image_id))
        except ItemError:
            continue  # said when its relevance was computed
    targets: list[list[Target]] = []
    for one in inputs:
        (found,) = adapter.detect(one)
        kept = (found.scores > adapter.score_threshold).nonzero().flatten().tolist()
        targets.append([Logit(int(found.labels[q]), q) for q in kept])

    def maps(explained: Detector) -> list[dict[str, Any]]:
        return [
            {name: found["image"] for name, found in attribute(trace, methods).items()} if wanted else {}
            for one, wanted in zip(inputs, targets, strict=True)
            for trace in observe(explained, one, [wanted], methods)
        ]

    trained = maps(adapter)
    names = [f"{item}:{row}" for item, wanted in zip(items, targets, strict=True) for row in range(len(wanted))]
    owners = [name.partition(":")[0] for name in names]
    results = []
    for number, (stage, changed) in enumerate(_cascade(adapter, inputs[0], session.cfg.seed), start=1):
        other = maps(changed)
        for spec in session.methods:
            alike = [
                rank_correlation(*(x[spec.name][row].double().cpu().numpy() for x in (now, before)))
                for now, before, wanted in zip(other, trained, targets, strict=True)
                for row in range(len(wanted))
            ]
            panel = f"randomisation/{number:02d} {stage}"
            results.append(record.mean(spec, ItemValues(panel, "rank_correlation", np.array(alike), names, owners)))
    return results


def stages(adapter: Any, inputs: Any) -> list[str]:
    """Modules that run one after the other, the last first: layers of lists of layers, and what stands beside them."""
    model: nn.Module = adapter.model
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    layers = [f"{name}.{child}" for name in lists for child, _ in model.get_submodule(name).named_children()]
    outer = [name for name in layers if not any(name.startswith(f"{other}.") for other in layers)]
    single = [
        name
        for name, module in model.named_modules()
        if name
        and any(True for _ in module.parameters(recurse=False))
        and not any(name == o or name.startswith(f"{o}.") for o in outer)
    ]
    order: dict[str, None] = {}
    named = {name: model.get_submodule(name) for name in (*outer, *single)}
    with hooked(m.register_forward_hook(lambda *_, n=name: order.setdefault(n)) for name, m in named.items()):
        adapter.detect(inputs)
    return list(reversed(order))


def _cascade(adapter: Any, inputs: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """The last stage's name and an adapter whose stages from there to the output are at random."""
    changed = copy.copy(adapter)
    changed.model = copy.deepcopy(adapter.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for stage in stages(adapter, inputs):
            before = [p.clone() for p in changed.model.get_submodule(stage).parameters()]
            for module in changed.model.get_submodule(stage).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            after = changed.model.get_submodule(stage).parameters()
            if any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)):
                yield stage, changed
