"""Methods that the paper's is compared with, against their slow dense twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import competitor_oracle as twins
import numpy as np
import oracle
import pytest
import relevance_oracle
import torch
from compare import PARTICULAR, distance
from method_cases import CASES, PASSING, Case, deformable_case, detr_case, lxmert_case
from PIL import Image
from tiny import picture, tiny_detr
from torch import Tensor

import hetexp
from hetexp.api import explain
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.integrated_gradients import IntegratedGradients
from hetexp.attribution.registry import get_method
from hetexp.data.vqa_dataset import open_vqa
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.models.protocols import Adapter
from hetexp.models.registry import load_model
from hetexp.targets import Logit

ASSETS = Path(hetexp.__file__).parent / "assets"
NAMES = ("detr", "deformable_detr", "lxmert")
METHODS = [name for name in PASSING if name == "integrated_gradients" or name not in PARTICULAR]


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def test_mean_attention(case: Case) -> None:
    case.check("mean_attention", twins.mean_attention(case.run))


def test_value_weighted_gae(case: Case) -> None:
    want = twins.value_weighted_gae(case.run, case.adapter.model, case.forward)
    case.check("value_weighted_gae", want)
    plain = oracle.gae(case.run)
    assert all(distance(plain[s][None], want[s][None]) > 1e-3 for s in want)


def test_value_gradient(case: Case) -> None:
    own = case.run.token if case.run.readout in case.run.sources else None
    want = twins.value_gradient(case.adapter.model, case.forward, case.run.sources, own)
    case.check("value_gradient", want)
    assert any(bool((rows < 0).any()) for rows in want.values())


@pytest.mark.parametrize("name", ["detr", "lxmert"])
def test_methods_on_lrp_maps(name: str) -> None:
    case = CASES[name]()
    model = case.adapter.model
    if name == "detr":
        maps = relevance_oracle.detr_maps(model, case.inputs["pixel_values"], 2, 1)
    else:
        maps = relevance_oracle.lxmert_maps(model, case.inputs, 1)
    run = twins.on_maps(case.run, maps)
    case.check("partial_lrp", oracle.raw_attention(run))
    case.check("transformer_attribution", twins.transformer_attribution(run))
    case.check("gae_lrp", twins.gae_lrp(run))


def without_own(case: Case, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return oracle.without_own(case.run, rows)


def test_input_x_gradient(case: Case) -> None:
    want = twins.input_x_gradient(case.adapter.model, case.forward)
    case.check("input_x_gradient", without_own(case, want))


def test_integrated_gradients(case: Case) -> None:
    want = twins.integrated_gradients(case.adapter.model, case.forward, 5)
    case.check(IntegratedGradients(steps=5), without_own(case, want))


@pytest.mark.parametrize("method", ["cp_lrp", "libra_grad"])
def test_detached_gradients(case: Case, method: str) -> None:
    model = case.adapter.model
    with twins.held_fixed(gates=method == "libra_grad"):
        want = twins.input_x_gradient(model, case.forward)
    case.check(method, without_own(case, want))
    plain = twins.input_x_gradient(model, case.forward)
    assert all(distance(plain[s][None], want[s][None]) > 1e-3 for s in want)


def test_libra_grad_differs_where_there_are_gates() -> None:
    case = lxmert_case()
    found, other = case.found("libra_grad"), case.found("cp_lrp")
    assert all(distance(found[s][None], other[s][None]) > 1e-3 for s in found)


def test_what_cp_lrp_conserves() -> None:
    """A detached DETR of ReLUs is linear: contributions of image and of everything added to it make up y."""
    case = detr_case()
    model = case.adapter.model
    constants = [p for name, p in model.named_parameters() if "backbone" not in name and p.dim() == 1]
    constants = [
        p for p in constants if not any(p is n.weight for n in model.modules() if isinstance(n, torch.nn.LayerNorm))
    ]
    with twins.held_fixed(gates=False):
        y = case.forward()
        gradients = torch.autograd.grad(y, constants, allow_unused=True)
    added = sum(float((p * g).detach().sum()) for p, g in zip(constants, gradients, strict=True) if g is not None)
    projection = model.model.input_projection.bias  # is part of the features
    own = gradients[[p is projection for p in constants].index(True)]
    added -= float((projection * own).detach().sum())
    assert float(case.found("cp_lrp")["image"].sum()) + added == pytest.approx(float(y.detach()), rel=1e-9)


def errors_of_completeness(adapter: Adapter, inputs: dict[str, Tensor], target: Logit) -> list[float]:
    """Of integrated gradients at their default steps, a number per target."""
    method = get_method("integrated_gradients").build()
    assert isinstance(method, IntegratedGradients)
    (trace,) = observe(adapter, inputs, [[target]], {"it": method})
    found: list[float] = method.completeness_error(trace).tolist()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_integrated_gradients_are_complete(name: str) -> None:
    """Random models, whose attention and normalisation vary more along the way than those of trained ones."""
    case = CASES[name]()
    assert max(errors_of_completeness(case.adapter, case.inputs, case.target)) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_integrated_gradients_are_complete_on_trained_models(name: str) -> None:
    """Within 1 % on average over what is explained in one input."""
    adapter: Any = load_model(name, ASSETS / name)
    if name == "lxmert":
        data = {"root": ASSETS, "questions": "vqa/questions.json", "answers": "lxmert/label2ans.json", "draw": None}
        vqa = open_vqa({**data, "regions": "vqa/regions.safetensors"}, limit=1, seed=0)
        assert vqa.regions is not None
        found = vqa.regions.regions(vqa.questions[0].img_id)
        features, boxes = (torch.from_numpy(np.asarray(x)) for x in (found.features, found.boxes))
        inputs = adapter.collate([adapter.encode(vqa.questions[0].sent, features, boxes)])
    else:
        with Image.open(min((ASSETS / "scenes/val/images").iterdir())) as image:
            inputs = adapter.prepare([image.convert("RGB")])
    errors = errors_of_completeness(adapter, inputs, Logit())
    assert errors
    assert sum(errors) / len(errors) <= 0.01


def test_integrated_gradients_refuse_no_steps() -> None:
    with pytest.raises(ConfigError, match="steps=0 of integrated gradients must be at least 1"):
        IntegratedGradients(0)


def test_several_targets_and_inputs_of_a_batch() -> None:
    """Each target of each input has the relevance that it has alone."""
    adapter = DetrAdapter(tiny_detr(3, heads=4))
    pixels = [picture(48, 64, seed=4), picture(48, 64, seed=5)]
    targets = [[Logit(None, 2), Logit(1, 4)], [Logit(None, 0)]]
    together = explain(adapter, {"pixel_values": torch.cat(pixels)}, METHODS, targets)
    alone = [
        explain(adapter, {"pixel_values": p}, METHODS, [t]) for p, own in zip(pixels, targets, strict=True) for t in own
    ]
    for method in METHODS:
        want = torch.cat([one[method]["image"] for one in alone])
        assert distance(together[method]["image"].flatten(1), want.flatten(1)) <= 1e-8, method


def test_lrp_says_why_it_cannot_be_applied() -> None:
    case = deformable_case()
    for method in ("partial_lrp", "transformer_attribution", "gae_lrp"):
        with pytest.raises(ConfigError, match=r"\(LRP\) have no rule for the sampled attention of deformable_detr"):
            case.found(method)


def test_a_trace_without_the_pass_is_refused() -> None:
    case = detr_case()
    (trace,) = case.adapter.trace(case.inputs, [[case.target]])
    with pytest.raises(InputError, match="this trace was taken without the pass RelevancePass"):
        attribute(trace, build_methods(["partial_lrp"]))
