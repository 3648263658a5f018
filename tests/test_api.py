"""`explain`: the forms of its arguments, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compare import distance, general_methods
from PIL import Image
from tiny import picture, question, tiny_detr, tiny_lxmert

import hetexp
from hetexp.attribution.attribute import build_methods
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import Difference, Logit

INPUTS = {"pixel_values": picture(64, 48)}


def test_public_names() -> None:
    for name in hetexp.__all__:
        assert getattr(hetexp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hetexp.nothing  # noqa: B018


def test_shapes_and_the_forms_of_an_argument() -> None:
    adapter = DetrAdapter(tiny_detr(0), score_threshold=0.0)
    methods = list(general_methods())
    every = hetexp.explain(adapter, INPUTS, methods)
    assert set(every) == set(methods)
    for method, found in every.items():
        assert found["image"].shape == (6, 4, 3), method
        assert bool(found["image"].isfinite().all()), method
    one = hetexp.explain(adapter, INPUTS, "ours_abs", Logit(query=2))
    assert set(one) == {"ours_abs"}
    assert torch.allclose(one["ours_abs"]["image"][0], every["ours_abs"]["image"][2], rtol=0, atol=1e-12)
    table = hetexp.explain(adapter, INPUTS, {"mine": hetexp.METHODS["ours_abs"].build()}, [Logit(query=2)])
    assert torch.equal(table["mine"]["image"], one["ours_abs"]["image"])

    answered = hetexp.explain(LxmertAdapter(tiny_lxmert(0)), question(6, 5), methods)
    for streams in answered.values():
        assert {s: r.shape for s, r in streams.items()} == {"text": (1, 6), "image": (1, 5)}


@pytest.mark.parametrize("target", [3, np.int64(3), torch.tensor(3), [3], (3,), [[3]], Logit(query=3)])
def test_a_number_is_an_object_query(target: Any) -> None:
    found = hetexp.explain(DetrAdapter(tiny_detr(0)), INPUTS, {"m": Ours("abs")}, target)
    assert found.queries == [3]


@pytest.mark.parametrize("target", [4, np.int32(4), "blue", Logit(4), Logit("blue"), ["blue"]])
def test_a_number_or_a_name_is_an_answer(target: Any) -> None:
    adapter = LxmertAdapter(tiny_lxmert(0), answers=["yes", "no", "red", "one", "blue", "two"])
    found = hetexp.explain(adapter, question(6, 5), {"m": Ours("abs")}, target)
    want = hetexp.explain(adapter, question(6, 5), {"m": Ours("abs")}, Logit(4))
    assert found.targets == ["logit(blue)"]
    assert torch.equal(found["m"]["image"], want["m"]["image"])


def test_a_class_name_stands_for_its_kept_queries() -> None:
    adapter = DetrAdapter(tiny_detr(0))
    (seen,) = adapter.detect(INPUTS)
    label = int(seen.labels[seen.scores.argmax()])
    name = adapter.labels[label]
    of_class = (seen.labels == label).nonzero().flatten()
    adapter.score_threshold = float(seen.scores[of_class].min()) - 1e-9
    found = hetexp.explain(adapter, INPUTS, "gae", name)
    assert found.queries == of_class.tolist()
    assert set(found.targets) == {f"logit({name})"}
    want = hetexp.explain(adapter, INPUTS, "gae", [Logit(label, q) for q in of_class.tolist()])
    assert torch.equal(found["gae"]["image"], want["gae"]["image"])
    adapter.score_threshold = 1.0
    with pytest.raises(InputError, match=rf"no {name} was detected with p > 1; detected: nothing. Lower score_thr"):
        hetexp.explain(adapter, INPUTS, "gae", name)


def test_names_and_numbers_inside_targets() -> None:
    adapter = DetrAdapter(tiny_detr(0))
    named = hetexp.explain(adapter, INPUTS, "gae", Difference("LABEL_3", "LABEL_1", query=2))
    want = hetexp.explain(adapter, INPUTS, "gae", Difference(3, 1, query=2))
    assert torch.equal(named["gae"]["image"], want["gae"]["image"])
    assert named.targets == want.targets == ["logit(LABEL_3) − logit(LABEL_1)"]


def test_targets_of_a_batch() -> None:
    """One list serves every input; a list of lists gives each its own."""
    adapter = DetrAdapter(tiny_detr(0))
    batch = {"pixel_values": torch.cat([picture(64, 48, seed=n) for n in (0, 1)])}
    methods = build_methods(["gae", "ours_abs"])
    shared = hetexp.explain(adapter, batch, methods, [2, 4])
    assert [(r.item, r.query) for r in shared.rows] == [(0, 2), (0, 4), (1, 2), (1, 4)]
    own = hetexp.explain(adapter, batch, methods, [[2], [4, Logit(1, 5)]])
    assert [(r.item, r.query) for r in own.rows] == [(0, 2), (1, 4), (1, 5)]
    for name in methods:
        assert distance(own[name]["image"][:2], shared[name]["image"][[0, 3]]) <= 1e-12
        for number in (0, 1):
            alone = hetexp.explain(adapter, {"pixel_values": picture(64, 48, seed=number)}, methods, [2, 4])
            assert distance(shared[name]["image"][2 * number : 2 * number + 2], alone[name]["image"]) <= 1e-9


def test_refuses() -> None:
    adapter = DetrAdapter(tiny_detr(0))
    with pytest.raises(ConfigError, match=r"unknown method 'lime'. Available methods: gae, .*ours_abs"):
        hetexp.explain(adapter, INPUTS, ["gae", "lime"])
    with pytest.raises(InputError, match="class 5 does not exist: expected 0 to 4"):
        hetexp.explain(adapter, INPUTS, "gae", Logit(5, query=0))
    with pytest.raises(InputError, match="query 6 does not exist: this model has queries 0 to 5"):
        hetexp.explain(adapter, INPUTS, "gae", 6)
    with pytest.raises(ConfigError, match="unknown class 'LABEL_9'; near it: LABEL_"):
        hetexp.explain(adapter, INPUTS, "gae", "LABEL_9")
    with pytest.raises(ConfigError, match="unknown class 'gnu'; known are, among others: LABEL_0, LABEL_1"):
        hetexp.explain(adapter, INPUTS, "gae", Difference("gnu", 0, query=1))
    wrong: Any = [2.5]
    with pytest.raises(InputError, match=r"2\.5 is no target: give one of hetexp\.targets, the name of"):
        hetexp.explain(adapter, INPUTS, "gae", wrong)
    with pytest.raises(ConfigError, match="names 'red', but the model's classes have no names"):
        hetexp.explain(LxmertAdapter(tiny_lxmert(0)), question(6, 5), "gae", "red")


def test_refuses_targets_that_do_not_fit_a_batch() -> None:
    adapter = DetrAdapter(tiny_detr(0))
    batch = {"pixel_values": picture(64, 48).repeat(2, 1, 1, 1)}
    wrong: list[Any] = [[[1]], [[1], [2], [3]], [[1], 2]]
    for targets in wrong:
        with pytest.raises(InputError, match="one list for all inputs, or 2 lists, one per input"):
            hetexp.explain(adapter, batch, "gae", targets)
    with pytest.raises(InputError, match="one image was given for a batch of 2 inputs: explain them one at a time"):
        hetexp.explain(adapter, batch, "gae", 1, image=Image.new("RGB", (48, 64)))
