"""Every method's fast path against the dense oracle, on random models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import oracle
import pytest
import torch
from compare import distance, tolerance
from tiny import picture, question, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.api import explain
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.method import Method
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.attribution.registry import METHODS
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import SIDES, AnyTarget, BoxSide, Difference, Logit, Ratio, RelativeDifference

ALL: dict[str, Method] = {
    **build_methods(name for name in METHODS if name in oracle.METHODS),  # the others have twins of their own
    "noised_total": Ours("pos", "total"),
    "abs_noised": Ours("abs", "row"),
    "gae_plain": Gae(normalise=False),
    "homologous": Homologous("abs"),
}
DTYPES = (torch.float64, torch.float32)

DETRS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({"seed": 1}, (64, 48)),
    "deep": ({"seed": 2, "encoder_layers": 4, "decoder_layers": 3, "heads": 4}, (48, 80)),
    "one layer, one head": ({"seed": 3, "encoder_layers": 1, "decoder_layers": 1, "heads": 1, "peak": 0.25}, (33, 50)),
    "many queries": ({"seed": 4, "queries": 11, "classes": 3, "heads": 8}, (80, 64)),
    "one cell": ({"seed": 5}, (16, 16)),
}
LXMERTS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({"seed": 1}, (7, 9)),
    "deep": ({"seed": 2, "language": 4, "vision": 3, "cross": 3, "heads": 4}, (5, 12)),
    "one of each": ({"seed": 3, "language": 1, "vision": 1, "cross": 1, "heads": 1}, (3, 4)),
    "one region": ({"seed": 4, "cross": 3}, (6, 1)),
    "wide": ({"seed": 5, "width": 24, "heads": 8, "vision": 2, "answers": 11}, (12, 20)),
}


def stack(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {s: torch.stack([r[s] for r in runs]) for s in runs[0]}


def check(found: Mapping[str, Mapping[str, Tensor]], runs: list[oracle.Run], dtype: torch.dtype) -> None:
    assert set(found) == set(oracle.METHODS)
    for method, streams in found.items():
        want = stack([oracle.METHODS[method](run) for run in runs])
        assert set(streams) == set(want)
        for stream, got in streams.items():
            assert got.dtype == dtype
            off = distance(got.flatten(1), want[stream])
            assert off <= tolerance(method, dtype), (method, stream, off)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DETRS)
def test_detr(case: str, dtype: torch.dtype) -> None:
    """All queries at once, a class each."""
    options, size = DETRS[case]
    model = tiny_detr(**options)
    pixels = picture(*size, seed=7)
    n, classes = model.config.num_queries, model.config.num_labels
    runs = [oracle.run_detector(model, pixels, q, Logit(q % classes)) for q in range(n)]
    adapter = DetrAdapter(copy.deepcopy(model).to(dtype))
    targets = [Logit(q % classes, query=q) for q in range(n)]
    check(explain(adapter, {"pixel_values": pixels.to(dtype)}, ALL, targets), runs, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LXMERTS)
def test_lxmert(case: str, dtype: torch.dtype) -> None:
    options, size = LXMERTS[case]
    model = tiny_lxmert(**options)
    inputs = question(*size, seed=7)
    targets = [Logit(), Logit(1), Logit(3)]
    runs = [oracle.run_lxmert(model, inputs, target) for target in targets]
    adapter = LxmertAdapter(copy.deepcopy(model).to(dtype))
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    check(explain(adapter, narrow, ALL, targets), runs, dtype)


def designs(a: int, b: int, query: int | None = None) -> list[Any]:
    return [Logit(a, query), Difference(a, b, query), Ratio(a, b, query), RelativeDifference(a, b, query)]


@pytest.mark.parametrize(("a", "b"), [(0, 2), (3, 1)])
def test_target_designs(a: int, b: int) -> None:
    """Difference and ratio targets, several in one pass, and written out here once more."""
    written: list[Callable[[Tensor], Tensor]] = [
        lambda x: x[a],
        lambda x: x[a] - x[b],
        lambda x: x[a] / x[b],
        lambda x: (x[a] - x[b]) / x[b],
    ]
    model, pixels = tiny_detr(6), picture(64, 64, seed=1)
    runs = [oracle.run_detector(model, pixels, 2, y) for y in written]
    check(explain(DetrAdapter(model), {"pixel_values": pixels}, ALL, designs(a, b, 2)), runs, torch.float64)

    vqa, inputs = tiny_lxmert(6), question(6, 5, seed=1)
    runs = [oracle.run_lxmert(vqa, inputs, y) for y in written]
    found = explain(LxmertAdapter(vqa), inputs, ALL, designs(a, b))
    check(found, runs, torch.float64)
    logit, difference = found["ours_full"]["image"][:2]
    assert distance(logit[None], difference[None]) > 1e-3  # the second answer matters


@pytest.mark.parametrize("side", SIDES)
def test_box_targets(side: str) -> None:
    """Sides of predicted boxes, written out here once more, for several queries at once."""
    written: dict[str, Callable[[Tensor], Tensor]] = {
        "left": lambda box: box[0] - 0.5 * box[2],
        "top": lambda box: box[1] - 0.5 * box[3],
        "right": lambda box: box[0] + 0.5 * box[2],
        "bottom": lambda box: box[1] + 0.5 * box[3],
    }
    model, pixels, queries = tiny_detr(9), picture(64, 48, seed=4), (0, 3, 5)
    runs = [oracle.run_detector(model, pixels, q, written[side], of="box") for q in queries]
    targets = [BoxSide(side, query=q) for q in queries]
    check(explain(DetrAdapter(model), {"pixel_values": pixels}, ALL, targets), runs, torch.float64)


def test_boxes_and_logits_in_one_pass() -> None:
    model, pixels = tiny_detr(9), picture(64, 48, seed=4)
    runs = [
        oracle.run_detector(model, pixels, 1, lambda x: x[2]),
        oracle.run_detector(model, pixels, 1, lambda box: box[0] - box[2] / 2, of="box"),
        oracle.run_detector(model, pixels, 4, lambda x: x[0] - x[3]),
    ]
    targets: list[AnyTarget] = [Logit(2, 1), BoxSide("left", 1), Difference(0, 3, 4)]
    found = explain(DetrAdapter(model), {"pixel_values": pixels}, ALL, targets)
    check(found, runs, torch.float64)
    logit, left = found["ours_abs"]["image"][:2]
    assert distance(logit[None], left[None]) > 1e-3  # another question about the same query


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_oracle_takes_gradients_from_anywhere_in_any_type(dtype: torch.dtype) -> None:
    """`backward` through the whole model, and a float32 run: what a measurement of the dense way does."""
    model, pixels = tiny_detr(1).to(dtype), picture(64, 48, dtype=dtype)
    with oracle.watching_detector(model, cut_backbone=False) as seen:
        logits = model(pixel_values=pixels).logits
    kept = [*seen.maps, seen.features["projection"]]
    for tensor in kept:
        tensor.retain_grad()
    logits[0, 2, 0].backward()
    gradients = [tensor.grad for tensor in kept if tensor.grad is not None]
    run = oracle.detector_run(model, seen, gradients[:-1], "projection", gradients[-1], 2)
    want = oracle.run_detector(model.double(), pixels.double(), 2, Logit(0))
    for name, method in oracle.METHODS.items():
        got = method(run)["image"]
        assert got.dtype == dtype
        assert distance(got[None], method(want)["image"][None]) <= tolerance(name, dtype), name


@pytest.mark.parametrize("feature", ["projection", "backbone", "encoder"])
def test_odam_features_of_detr(feature: str) -> None:
    model, pixels = tiny_detr(7), picture(48, 64, seed=2)
    want = [oracle.odam(oracle.run_detector(model, pixels, q, Logit(0), feature))["image"] for q in (1, 4)]
    targets = [Logit(0, query=q) for q in (1, 4)]
    got = explain(DetrAdapter(model), {"pixel_values": pixels}, {"odam": Odam(feature)}, targets)
    assert distance(got["odam"]["image"].flatten(1), torch.stack(want)) <= 1e-9


@pytest.mark.parametrize("feature", ["embedding", "encoder"])
def test_odam_features_of_lxmert(feature: str) -> None:
    model, inputs = tiny_lxmert(7), question(6, 5, seed=2)
    want = oracle.odam(oracle.run_lxmert(model, inputs, Logit(), feature))
    got = explain(LxmertAdapter(model), inputs, {"odam": Odam(feature)})["odam"]
    for stream, rows in got.items():
        assert distance(rows, want[stream][None]) <= 1e-9


def test_zero_row_of_the_queries_drops_the_layer() -> None:
    """GAE's rule for DETR: one 0 / 0 row, and the decoder layer adds nothing for any query."""
    model, pixels = tiny_detr(8, decoder_layers=1), picture(48, 48, seed=3)
    with torch.no_grad():
        model.model.decoder.layers[0].self_attn.v_proj.bias.zero_()  # queries start at 0: no value, no gradient
    run = oracle.run_detector(model, pixels, 0, Logit(0))
    assert bool((run.fusion[0][0].corrected("pos").sum(1) == 0).any())
    found = explain(DetrAdapter(model), {"pixel_values": pixels}, ["gae", "ours_pos"], Logit(0, query=0))
    assert bool((found["gae"]["image"] == 0).all())
    assert bool((found["ours_pos"]["image"] > 0).any())
    assert distance(found["gae"]["image"].flatten(1), oracle.gae(run)["image"][None]) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vanishing_row_sums_stay_finite(dtype: torch.dtype) -> None:
    """A row sum below the smallest number with a reciprocal counts as none; the others are as ever."""
    model = tiny_detr(3, encoder_layers=1, heads=1, width=8, peak=1.6).to(dtype)
    pixels = picture(33, 50, seed=7, dtype=dtype)
    targets = [Logit(q % 5, query=q) for q in range(6)]
    (trace,) = observe(DetrAdapter(model), {"pixel_values": pixels}, [targets], ALL)
    sums = CorrectedMaps(["pos"], trace.sizes)(next(trace.steps()), "pos").row_sums()
    assert bool(((sums > 0) & (sums < 1e6 * torch.finfo(dtype).tiny)).any())
    for method, found in attribute(trace, ALL).items():
        assert bool(found["image"].isfinite().all()), method


@pytest.mark.parametrize("seed", range(3))
def test_equivalence_with_gae(seed: int) -> None:
    """Section 4 of the paper: pos is GAE without normalisation and without the outer factors of its Eq. 10."""
    model, pixels = tiny_detr(20 + seed), picture(64, 48, seed=seed)
    runs = [oracle.run_detector(model, pixels, q, Logit(1)) for q in range(6)]
    want = torch.stack([oracle.gae(run, normalise=False, products=False)["image"] for run in runs])
    targets = [Logit(1, query=q) for q in range(6)]
    found = explain(DetrAdapter(model), {"pixel_values": pixels}, ["ours_pos", "gae"], targets)
    assert distance(found["ours_pos"]["image"].flatten(1), want) <= 1e-9
    assert distance(found["gae"]["image"].flatten(1), want) > 1e-3  # with them it is another map
