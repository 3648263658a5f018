"""Explain inputs: the public entry point for notebooks, scripts and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from operator import index
from typing import Any, SupportsIndex

import torch
from PIL.Image import Image
from torch import Tensor

from hetexp.attribution.attribute import attribute, build_methods, observe, pictures
from hetexp.attribution.method import Method
from hetexp.errors import InputError
from hetexp.explanation import Explanation, Relevance, Row
from hetexp.models.protocols import Adapter, Detections
from hetexp.models.trace import AttentionTrace, Target
from hetexp.targets import Logit, describe, resolve

Methods = Iterable[str] | Mapping[str, Method] | str
OneTarget = Target | str | SupportsIndex
Targets = OneTarget | Sequence[OneTarget | Sequence[OneTarget]] | None


def explain(
    adapter: Adapter,
    inputs: Mapping[str, Tensor],
    methods: Methods,
    targets: Targets = None,
    *,
    image: Image | None = None,
) -> Explanation:
    """Raw relevance for several methods, from one forward pass and one backward pass per target.

    Args:
        adapter: from `hetexp.load_model`.
        inputs: the Hugging Face model's own keyword tensors, one input or a padded batch.
        methods: names (see `hetexp.METHODS`), or name -> method.
        targets: None explains every kept query of a detector, or the predicted answer. Otherwise one or several of
            `hetexp.targets`; a class name (the kept queries of that class, or that answer); a number (an object query,
            or an answer). A sequence of sequences gives each input of a batch its own. Models that write text are
            asked for `Logit(token, query=decoder position)`, two towers for `Logit(text, query=image)`.
        image: the picture of a single input, kept for drawing.

    Returns:
        a mapping method -> source -> relevance that also knows targets, labels, scores, boxes and its provenance.
        Detectors: {"image": [k, h, w]}. Models that answer questions: {"text": [k, T], "image": [k, R]}; every
        model has the keys of its `sources`. k counts the targets of all inputs, in their order.

    Raises:
        ConfigError: for an unknown method, or a class that does not exist.
        InputError: for a target that does not exist, or an image beside a batch.
    """
    table = (
        methods if isinstance(methods, Mapping) else build_methods([methods] if isinstance(methods, str) else methods)
    )
    count = getattr(adapter, "batch_size", None)
    batch = int(next(iter(inputs.values())).shape[0] if count is None else count(inputs))
    if image is not None and batch != 1:
        raise InputError(f"one image was given for a batch of {batch} inputs: explain them one at a time to draw them")
    wanted = _per_input(adapter, inputs, targets, batch)
    traces = observe(adapter, inputs, wanted, table)
    return collect(adapter, traces, [attribute(trace, table) for trace in traces], table, image=image)


def collect(
    adapter: Adapter,
    traces: Sequence[AttentionTrace],
    found: Sequence[Relevance],
    methods: Mapping[str, Method],
    **more: Any,
) -> Explanation:
    """One explanation of what `attribute` found in the traces of a batch; `more` are fields of `Explanation`."""
    shown = [pictures(trace, f) for trace, f in zip(traces, found, strict=True)]
    relevance = {name: {s: torch.cat([f[name][s] for f in shown]) for s in traces[0].sources} for name in found[0]}
    scales = [s for s in traces[0].sources if traces[0].layouts[s].levels]
    multiscale = {name: {s: torch.cat([f[name][s] for f in found]) for s in scales} for name in found[0] if scales}
    rows = [row for item, trace in enumerate(traces) for row in describe_rows(trace, adapter.labels, item)]
    return Explanation(
        relevance,
        rows,
        "detection" if "detections" in traces[0].outputs else getattr(adapter, "kind", "vqa"),
        provenance(adapter, methods),
        [{s: trace.layouts[s].grid for s in trace.sources} for trace in traces],
        [trace.layouts["image"].extent if "image" in trace.layouts else None for trace in traces],
        multiscale=multiscale,
        levels=[trace.layouts["image"].levels if "image" in trace.layouts else () for trace in traces],
        points=_points(traces),
        **more,
    )


def _points(traces: Sequence[AttentionTrace]) -> Tensor | None:
    """Where each target's token sampled the image in the last layer: x, y, weight of every point [k, points, 3]."""
    found = []
    for trace in traces:
        sampled = [step for step in trace.steps() if step.points is not None and step.query in trace.readouts]
        if not sampled or sampled[-1].points is None:
            return None
        rows = trace.readouts[sampled[-1].query]
        locations, weights = (x[:, rows].transpose(0, 1).flatten(1, 2) for x in sampled[-1].points)
        found.append(torch.cat([locations, weights.unsqueeze(-1)], -1))
    return torch.cat(found)


def describe_rows(trace: AttentionTrace, labels: Mapping[int, str], item: int = 0) -> list[Row]:
    """What each target of a trace explains."""
    detections: Detections | None = trace.outputs.get("detections")
    if detections is None:
        logits = trace.outputs["logits"]
        scores = trace.outputs.get("scores", logits.double().softmax(-1))
        if logits.ndim == 1:
            return [_predicted(target, logits, scores, labels, None, item) for target in trace.targets]
        return [
            _predicted(target, logits[row], scores[row], labels, row, item)
            for target, row in zip(trace.targets, trace.rows.tolist(), strict=True)
        ]
    rows = []
    for target, query in zip(trace.targets, trace.rows.tolist(), strict=True):
        label = int(detections.labels[query])
        rows.append(
            Row(
                describe(target, detections.logits[query], labels),
                labels.get(label, str(label)),
                float(detections.scores[query]),
                query,
                corners(detections.boxes[query]),
                item,
            )
        )
    return rows


def _predicted(
    target: Target, logits: Tensor, scores: Tensor, labels: Mapping[int, str], query: int | None, item: int
) -> Row:
    """What a target of one row of logits [classes] with their probabilities explains."""
    best = int(logits.argmax())
    return Row(describe(target, logits, labels), labels.get(best, str(best)), float(scores[best]), query, item=item)


def corners(box: Tensor) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2, clipped to the image, of a box (centre x, centre y, width, height) [4]."""
    cx, cy, w, h = box.tolist()
    x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return x1, y1, x2, y2


def provenance(adapter: Adapter, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Where relevance comes from, JSON-serialisable."""
    return {
        "model": adapter.name,
        "checkpoint": str(getattr(getattr(adapter.model, "config", None), "_name_or_path", "")),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "methods": {
            name: {"class": type(m).__name__, **{k: v for k, v in vars(m).items() if not k.startswith("_")}}
            for name, m in methods.items()
        },
        "versions": {name: version(name) for name in ("hetexp", "torch", "transformers")},
    }


def _per_input(adapter: Adapter, inputs: Mapping[str, Tensor], targets: Targets, batch: int) -> list[list[Target]]:
    if targets is None:
        return [[Logit()] for _ in range(batch)]
    several = [targets] if isinstance(targets, str) or not isinstance(targets, Sequence) else list(targets)
    nested = [isinstance(t, Sequence) and not isinstance(t, str) for t in several]
    if any(nested):
        if not all(nested) or len(several) != batch:
            raise InputError(f"targets must be one list for all inputs, or {batch} lists, one per input")
        per_input: list[Any] = several
    else:
        per_input = [several] * batch
    detections: list[Detections] | None = None
    detect = getattr(adapter, "detect", None)
    if detect is not None and any(isinstance(t, str) for one in per_input for t in one):
        detections = detect(inputs)
    return [
        [own for t in one for own in _as_targets(adapter, t, None if detections is None else detections[b])]
        for b, one in enumerate(per_input)
    ]


def _as_targets(adapter: Adapter, target: OneTarget, detections: Detections | None) -> list[Target]:
    has_queries = hasattr(adapter, "detect")
    if isinstance(target, SupportsIndex):
        number = index(target)
        return [Logit(query=number) if has_queries else Logit(number)]
    if not isinstance(target, str):
        if not callable(target):
            raise InputError(f"{target!r} is no target: give one of hetexp.targets, the name of a class, or a number")
        return [resolve(target, adapter.labels)]
    named = resolve(Logit(target), adapter.labels)
    if detections is None:
        return [named]
    threshold: float = adapter.score_threshold  # type: ignore[attr-defined]
    kept = (detections.scores > threshold).nonzero().flatten().tolist()
    queries = [q for q in kept if int(detections.labels[q]) == named.index]
    if not queries:
        seen = ", ".join(dict.fromkeys(adapter.labels[int(detections.labels[q])] for q in kept)) or "nothing"
        raise InputError(
            f"no {target} was detected with p > {threshold:g}; detected: {seen}. Lower score_threshold, or name a query"
        )
    return [Logit(named.index, query=q) for q in queries]
