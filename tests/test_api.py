from __future__ import annotations

import pytest
import torch
from tiny import picture, question, tiny_detr, tiny_lxmert

import hetexp
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import Logit


def test_public_names() -> None:
    for name in hetexp.__all__:
        assert getattr(hetexp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hetexp.nothing  # noqa: B018


def test_shapes_and_the_forms_of_an_argument() -> None:
    adapter = DetrAdapter(tiny_detr(0), keep=0.0)
    inputs = {"pixel_values": picture(64, 48)}
    every = hetexp.explain(adapter, inputs, list(hetexp.METHODS))
    assert set(every) == set(hetexp.METHODS)
    for method, found in every.items():
        assert found["image"].shape == (6, 4, 3), method
        assert bool(found["image"].isfinite().all()), method
    one = hetexp.explain(adapter, inputs, "ours_abs", Logit(query=2))
    assert set(one) == {"ours_abs"}
    assert torch.allclose(one["ours_abs"]["image"][0], every["ours_abs"]["image"][2], rtol=0, atol=1e-12)
    table = hetexp.explain(adapter, inputs, {"mine": hetexp.METHODS["ours_abs"]}, [Logit(query=2)])
    assert torch.equal(table["mine"]["image"], one["ours_abs"]["image"])

    found = hetexp.explain(LxmertAdapter(tiny_lxmert(0)), question(6, 5), list(hetexp.METHODS))
    for streams in found.values():
        assert {s: r.shape for s, r in streams.items()} == {"text": (1, 6), "image": (1, 5)}


def test_refuses() -> None:
    adapter = DetrAdapter(tiny_detr(0))
    inputs = {"pixel_values": picture(64, 48)}
    with pytest.raises(ConfigError, match=r"unknown method 'lime'. Available methods: .*ours_abs.*gae"):
        hetexp.explain(adapter, inputs, ["gae", "lime"])
    with pytest.raises(InputError, match="one input at a time, got a batch of 2"):
        hetexp.explain(adapter, {"pixel_values": picture(64, 48).repeat(2, 1, 1, 1)}, "gae")
    with pytest.raises(InputError, match="class 5 does not exist: expected 0 to 4"):
        hetexp.explain(adapter, inputs, "gae", Logit(5, query=0))
