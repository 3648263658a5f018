"""Arrays computed by the reference code and by an independent oracle (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import distance, general_methods, tolerance

from hetexp.api import explain
from hetexp.attribution.attribute import attribute
from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.ours import Ours
from hetexp.models.registry import load_model
from hetexp.targets import Difference, Logit, Ratio, RelativeDifference

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = (torch.float64, torch.float32)
ALL = {**general_methods(), "noised_total": Ours("pos", "total"), "gae_nonorm": Gae(normalise=False)}
# our name -> name of the golden array, without stream and precision
REFERENCE = {
    "gae": "gae",
    "gae_nonorm": "gae_nonorm",
    "raw_attention": "raw_attn",
    "rollout": "rollout",
    "grad_cam": "attn_gradcam",
}
ORACLE = {
    "ours_pos": "ours_pos",
    "ours_abs": "ours_abs",
    "ours_full": "ours_full",
    "ours_noised": "ours_noised_row",
    "noised_total": "ours_noised_total",
}


def load(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def without_own(text: np.ndarray) -> torch.Tensor:
    """A text row [T] as [1, T] with CLS's own entry 0, which the arrays of the paper's method keep (about 1)."""
    row = torch.from_numpy(text)[None].clone()
    row[:, 0] = 0
    return row


@pytest.fixture(scope="module")
def detr() -> dict[str, Any]:
    return load("detr/A_12x10.npz")


@pytest.fixture(scope="module")
def lxmert() -> dict[str, Any]:
    return load("lxmert/t08_b36.npz")


def lxmert_inputs(golden: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos")
    inputs = {k: torch.from_numpy(golden[k]) for k in names}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_detr(detr: dict[str, Any], dtype: torch.dtype) -> None:
    adapter = load_model("detr", GOLDEN / "detr" / "modelA", dtype=dtype)
    inputs = {
        "pixel_values": torch.from_numpy(detr["pixel_values"]).to(dtype),
        "pixel_mask": torch.from_numpy(detr["pixel_mask"]),
    }
    targets = [Logit(int(c), int(q)) for q, c in zip(detr["targets"], detr["classes"], strict=True)]
    found = explain(adapter, inputs, ALL, targets)
    for method, name in (REFERENCE | ORACLE).items():
        want = torch.from_numpy(detr[f"{name}_f64" if method in REFERENCE else name])
        off = distance(found[method]["image"].flatten(1), want)
        assert off <= tolerance(method, dtype), (method, off)
    # section 4 of the paper: the reference's code without normalisation and outer factors
    assert distance(found["ours_pos"]["image"].flatten(1), torch.from_numpy(detr["gae_paper_rule_f64"])) <= tolerance(
        "ours_pos", dtype
    )
    (detections,) = adapter.detect(inputs)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    assert np.abs(detections.logits.double().numpy() - detr["logits_f64"][:, :-1]).max() < bound
    assert np.abs(detections.boxes.double().numpy() - detr["pred_boxes"]).max() < 1e-5  # stored as float32
    assert np.abs(detections.scores.double().numpy() - detr["scores"]).max() < 1e-5
    assert (detections.labels.numpy() == detr["labels"]).all()
    (trace,) = adapter.trace(inputs, [[]])
    assert np.abs(trace.outputs["logits"].double().numpy() - detr["logits_f64"]).max() < bound


def test_detr_masked_layer_is_covered(detr: dict[str, Any]) -> None:
    assert (detr["gae_nan_rows"] > 0).any()  # GAE's NaN rule is part of what the arrays check


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lxmert(lxmert: dict[str, Any], dtype: torch.dtype) -> None:
    adapter = load_model("lxmert", GOLDEN / "lxmert" / "model", dtype=dtype)
    inputs = lxmert_inputs(lxmert, dtype)
    found = explain(adapter, inputs, ALL, [Logit(), Logit(int(lxmert["answer_b"]))])
    for stream in ("text", "image"):
        for method, name in (REFERENCE | ORACLE).items():
            array = lxmert[f"{name}_{stream}_f64" if method in REFERENCE else f"{name}_{stream}"]
            want = without_own(array) if stream == "text" else torch.from_numpy(array)[None]
            off = distance(found[method][stream][:1], want)
            assert off <= tolerance(method, dtype), (method, stream, off)
        want = torch.from_numpy(lxmert[f"gae_answer_b_{stream}_f64"])[None]
        assert distance(found["gae"][stream][1:], want) <= tolerance("gae", dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("design", "target"), [("logit", Logit), ("diff", Difference), ("ratio", Ratio), ("rel_diff", RelativeDifference)]
)
def test_target_designs(lxmert: dict[str, Any], dtype: torch.dtype, design: str, target: Any) -> None:
    adapter = load_model("lxmert", GOLDEN / "lxmert" / "model", dtype=dtype)
    inputs = lxmert_inputs(lxmert, dtype)
    a, b = int(lxmert["answer_a"]), int(lxmert["answer_b"])
    chosen = target(a) if design == "logit" else target(a, b)
    index = ["logit", "diff", "ratio", "rel_diff"].index(design)
    value = float(chosen(adapter.predict(inputs)[0]))
    assert value == pytest.approx(float(lxmert["loss_values"][index]), rel=1e-10 if dtype == torch.float64 else 1e-4)
    found = explain(adapter, inputs, ["ours_full", "ours_pos", "ours_abs"], chosen)
    for correction in ("full",) if design == "logit" else ("full", "pos", "abs"):
        for stream in ("text", "image"):
            array = lxmert[f"loss_{design}_{correction}_{stream}"]
            want = without_own(array) if stream == "text" else torch.from_numpy(array)[None]
            off = distance(found[f"ours_{correction}"][stream], want)
            assert off <= tolerance("ours", dtype), (correction, stream, off)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_homologous_rollouts(lxmert: dict[str, Any], dtype: torch.dtype) -> None:
    adapter = load_model("lxmert", GOLDEN / "lxmert" / "model", dtype=dtype)
    (trace,) = adapter.trace(lxmert_inputs(lxmert, dtype), [[Logit()]])
    found = attribute(trace, {"homologous": Homologous("abs")})["homologous"]
    text = without_own(lxmert["homog_abs_lang_rollout"][0])
    image = torch.from_numpy(lxmert["homog_abs_vis_rollout"])
    assert distance(found["text"], text) <= tolerance("homologous", dtype)
    assert distance(found["image"], image.sum(0)[None]) <= tolerance("homologous", dtype)


LRP = ("partial_lrp", "transformer_attribution", "gae_lrp")


def correlation(a: torch.Tensor, b: np.ndarray) -> float:
    return float(np.corrcoef(a.double().numpy(), b)[0, 1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_detr_relevance_propagation(detr: dict[str, Any], dtype: torch.dtype) -> None:
    """The reference's own LRP, up to scale and offset: it scales partial LRP to 0..1 over all queries."""
    adapter = load_model("detr", GOLDEN / "detr" / "modelA", dtype=dtype)
    inputs = {"pixel_values": torch.from_numpy(detr["pixel_values"]).to(dtype)}
    targets = [Logit(int(c), int(q)) for q, c in zip(detr["targets"], detr["classes"], strict=True)]
    found, want = explain(adapter, inputs, LRP, targets), load("detr/A_12x10_lrp.npz")
    for method in LRP:
        for row, golden in zip(found[method]["image"].flatten(1), want[method], strict=True):
            assert correlation(row, golden) >= 0.9999, method


def test_lxmert_relevance_propagation(lxmert: dict[str, Any]) -> None:
    """The rule divides by products that nearly cancel: float32 alone moves partial LRP of text by 3e-3."""
    adapter = load_model("lxmert", GOLDEN / "lxmert" / "model", dtype=torch.float64)
    found, want = explain(adapter, lxmert_inputs(lxmert, torch.float64), LRP), load("lxmert/t08_b36_lrp.npz")
    for method in LRP:
        assert correlation(found[method]["text"][0, 1:], want[f"{method}_text"][1:]) >= 0.999, method
        assert correlation(found[method]["image"][0], want[f"{method}_image"]) >= 0.9999, method
