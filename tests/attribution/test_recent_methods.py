"""Recent methods and black boxes against their slow dense twins, and where they do not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import competitor_oracle
import numpy as np
import oracle
import pytest
import recent_oracle as twins
import torch
from compare import PARTICULAR, distance
from method_cases import CASES, PASSING, lxmert_case
from tiny import padded, picture, question, tiny_detr, tiny_lxmert

from hetexp.api import explain
from hetexp.attribution.atman import AtMan
from hetexp.attribution.beyond_intuition import BeyondIntuition
from hetexp.attribution.d_rise import DRise, MaskedPass
from hetexp.attribution.items import generator_of
from hetexp.attribution.registry import get_method
from hetexp.attribution.smooth_grad import SmoothGrad
from hetexp.errors import ConfigError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import Logit

FEW = {"smooth_grad": SmoothGrad(3), "beyond_intuition": BeyondIntuition(3), "d_rise": DRise(5, 3), "atman": AtMan()}


@pytest.mark.parametrize("name", CASES)
def test_legrad(name: str) -> None:
    case = CASES[name]()
    case.check("legrad", twins.legrad(case.run))


@pytest.mark.parametrize("name", ["detr", "lxmert", "bart"])
def test_grad_eclip(name: str) -> None:
    case = CASES[name]()
    model = case.adapter.model
    if name == "lxmert":
        last = model.lxmert.encoder.x_layers[-1]
        attention = {"text": last.lang_self_att.self, "image": last.visual_attention.att}
        pairs = {s: (m.query, m.key) for s, m in attention.items()}
    else:
        last = model.model.decoder.layers[-1]
        attention = (
            {"image": last.encoder_attn} if name == "detr" else {"target": last.self_attn, "text": last.encoder_attn}
        )
        pairs = {s: (m.q_proj, m.k_proj) for s, m in attention.items()}
    case.check("grad_eclip", twins.grad_eclip(case.run, case.forward, pairs))


@pytest.mark.parametrize("name", CASES)
def test_token_tm(name: str) -> None:
    case = CASES[name]()
    case.check("token_tm", twins.token_tm(case.run, case.forward, twins.token_projections(case.adapter.model)))


@pytest.mark.parametrize("name", ["detr", "deformable_detr", "lxmert"])
def test_smooth_grad(name: str) -> None:
    case = CASES[name]()
    want = twins.smooth_grad(case.adapter.model, case.inputs, case.forward, 4, 0.2)
    case.check(SmoothGrad(4, 0.2), oracle.without_own(case.run, want))


@pytest.mark.parametrize("name", ["detr", "lxmert"])
def test_smooth_grad_without_noise_is_the_gradient(name: str) -> None:
    case = CASES[name]()
    found = competitor_oracle.feature_gradients(case.adapter.model, case.forward)
    want = {s: gradient.abs().sum(1) for s, (_, gradient) in found.items()}
    case.check(SmoothGrad(2, 0.0), oracle.without_own(case.run, want))


@pytest.mark.parametrize("name", ["detr", "deformable_detr", "lxmert"])
def test_beyond_intuition(name: str) -> None:
    case = CASES[name]()
    case.check(BeyondIntuition(4), twins.beyond_intuition(case.adapter.model, case.rerun, 4))


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_d_rise(name: str, together: int) -> None:
    case = CASES[name]()
    pixels, grid = case.inputs["pixel_values"], (3, 4) if name == "detr" else (8, 6)
    want = twins.d_rise(case.adapter.model, pixels, 2, 6, 3, grid, no_object=name == "detr")
    got = case.found(DRise(masks=6, cells=3, together=together))["image"]
    assert distance(got[None, : want.numel()], want.reshape(1, -1)) <= 1e-8
    assert bool((got[want.numel() :] == 0).all())


def test_masks_of_d_rise() -> None:
    """They lie in 0..1, keep half of the image on average, and are smooth."""
    random = np.random.default_rng(0)
    masks = torch.stack([MaskedPass(1, 8, 0.5, 1).mask(random, 60, 90) for _ in range(200)])
    assert masks.shape == (200, 60, 90)
    assert 0 <= float(masks.min()) < 0.01 < 0.99 < float(masks.max()) <= 1
    assert abs(float(masks.mean()) - 0.5) < 0.02
    assert float(masks.diff(dim=2).abs().max()) < 0.2


@pytest.mark.parametrize("together", [3, 64])
@pytest.mark.parametrize("name", ["detr", "lxmert", "bart"])
def test_atman(name: str, together: int) -> None:
    case = CASES[name]()
    case.check(AtMan(0.7, together=together), twins.atman(case.run, case.forward, 0.7))


def test_atman_in_fewer_passes_shares_losses() -> None:
    case = lxmert_case()
    rows = case.found(AtMan(most=2))["text"]
    assert len({round(float(x), 12) for x in rows[3:]}) == 1
    assert len({round(float(x), 12) for x in rows[1:3]}) == 1
    assert float(rows[3]) != float(rows[1])


@pytest.mark.parametrize("method", ["legrad", "grad_eclip", *(m for m in PARTICULAR if m != "integrated_gradients")])
def test_an_item_does_not_depend_on_its_batch(method: str) -> None:
    """Each target of each padded item has the relevance that it has alone."""
    built = {method: FEW.get(method) or get_method(method).build()}
    if method == "d_rise" or method == "smooth_grad":
        adapter: Any = DetrAdapter(tiny_detr(3, heads=4))
        sizes = [(48, 64), (64, 32)]
        pixels = [picture(*size, seed=n)[0] for n, size in enumerate(sizes)]
        batch, single = adapter.collate(pixels), [adapter.collate([p]) for p in pixels]
        targets: list[list[Any]] = [[Logit(None, 2), Logit(1, 4)], [Logit(None, 0)]]
    else:
        adapter = LxmertAdapter(tiny_lxmert(3, heads=4))
        single = [question(6, 5, seed=1), question(4, 7, seed=2)]
        batch, targets = padded(single), [[Logit(1), Logit(None)], [Logit(2)]]
    together = explain(adapter, batch, built, targets)
    for i, inputs in enumerate(single):
        one = explain(adapter, inputs, built, targets[i])
        assert any(bool(one[method][source].any()) for source in adapter.sources)
        for source in adapter.sources:
            got, want = together.item(i)[method][source], one[method][source]
            crop = tuple(slice(0, n) for n in want.shape)
            assert distance(got[crop], want) <= 1e-8


@pytest.mark.parametrize("name", ["detr", "lxmert"])
def test_passes_leave_no_trace(name: str) -> None:
    """Ordinary relevance after any further pass has the bits of that before it, and no hook stays."""
    case = CASES[name]()
    before = case.found("ours_pos")
    refused = {"detr": (), "lxmert": ("d_rise",)}[name]
    for method in (*PASSING, "legrad", "grad_eclip"):
        if method not in refused:
            case.found(FEW.get(method, method))
            after = case.found("ours_pos")
            assert all(torch.equal(before[s], after[s]) for s in before), method
    modules = list(case.adapter.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in modules)


def test_numbers_drawn_depend_on_the_input() -> None:
    one, other = picture(8, 8, seed=0), picture(8, 8, seed=1)
    first, again, second = (generator_of({"pixel_values": x}).random() for x in (one, one.clone(), other))
    assert first == again != second


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("deformable_detr", "grad_eclip", "compares queries with keys, and the attention decoder.1.cross has none"),
        ("deformable_detr", "atman", "the attention encoder.0.self of deformable_detr is no softmax over tokens"),
        ("lxmert", "d_rise", "d_rise compares detections, and lxmert makes none"),
        ("bart", "d_rise", "d_rise compares detections, and bart makes none"),
        ("bart", "smooth_grad", "smooth_grad changes the features 'embedding', and bart does not say"),
        ("bart", "beyond_intuition", "beyond_intuition changes the features 'embedding', and bart does not say"),
    ],
)
def test_where_a_method_does_not_apply(name: str, method: str, reason: str) -> None:
    case = CASES[name]()
    with pytest.raises(ConfigError, match=reason):
        case.found(method)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmoothGrad(0), "samples=0"),
        (lambda: SmoothGrad(noise=-1), "noise=-1"),
        (lambda: BeyondIntuition(1), "steps=1"),
        (lambda: DRise(masks=0), "masks=0"),
        (lambda: DRise(kept=1.0), "kept=1.0"),
        (lambda: AtMan(factor=1.0), "factor=1.0"),
        (lambda: AtMan(most=0), "most=0"),
    ],
)
def test_parameters_are_checked(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
