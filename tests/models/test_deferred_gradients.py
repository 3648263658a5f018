"""Gradients that are found group by group, where those of all targets together would take too much memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from compare import general_methods
from tiny import picture, tiny_deformable_detr

import hetexp
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.method import NeedsPasses
from hetexp.models import observed_detector
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.targets import Logit

PLAIN = {n: m for n, m in general_methods(sampled=True).items() if not isinstance(m, NeedsPasses)}


def test_relevance_is_that_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded batch of two images with different numbers of targets."""
    adapter, methods = DeformableDetrAdapter(tiny_deformable_detr(3)), PLAIN | build_methods(["cp_lrp"])
    pixels = torch.cat([picture(48, 64, seed=i) for i in range(2)])
    targets = [[Logit(q % 5, q) for q in range(n)] for n in (5, 2)]
    together = observe(adapter, {"pixel_values": pixels}, targets, methods)
    monkeypatch.setattr(observed_detector, "GRADIENT_BUDGET", 1)
    deferred = observe(adapter, {"pixel_values": pixels}, targets, methods)
    for want, got in zip(together, deferred, strict=True):
        assert got.deferred is not None
        assert next(got.steps()).output_gradient.shape[0] == 0
        assert got.n_targets == want.n_targets
        a, b = attribute(want, methods), attribute(got, methods, byte_budget=1)
        for name in methods:
            assert torch.allclose(a[name]["image"], b[name]["image"], rtol=1e-10, atol=1e-15), name


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_the_caller_has_switched_off(off: Callable[[], AbstractContextManager[None]]) -> None:
    adapter = DeformableDetrAdapter(tiny_deformable_detr(4), score_threshold=0)
    inputs = {"pixel_values": picture(48, 64)}
    want = hetexp.explain(adapter, inputs, ["gae", "odam"])
    with off():
        got = hetexp.explain(adapter, inputs, ["gae", "odam"])
    for method in want:
        assert torch.equal(want.tokens(method, "image"), got.tokens(method, "image"))


def test_a_whole_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = DeformableDetrAdapter(tiny_deformable_detr(4), score_threshold=0)
    inputs = {"pixel_values": picture(48, 64)}
    want = hetexp.explain(adapter, inputs, ["gae", "odam"])
    monkeypatch.setattr(observed_detector, "GRADIENT_BUDGET", 1)
    got = hetexp.explain(adapter, inputs, ["gae", "odam"])
    assert want.targets == got.targets
    for method in want:
        assert torch.allclose(want.tokens(method, "image"), got.tokens(method, "image"), rtol=1e-10, atol=1e-15)
