"""Golden arrays: outputs of the reference code and of a dense oracle (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hetexp
from hetexp import targets
from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.methods import METHODS
from hetexp.attribution.ours import Ours

GOLDEN = Path(__file__).parents[1] / "golden"
TABLE = {**METHODS, "ours_noised_total": Ours("pos", "total"), "gae_nonorm": Gae(normalise=False)}
# method -> golden key; `reference` arrays carry a _f64 twin
REFERENCE = {"gae": "gae", "gae_nonorm": "gae_nonorm", "raw_attention": "raw_attn", "rollout": "rollout"}
REFERENCE["grad_cam"] = "attn_gradcam"
ORACLE = {"ours_pos": "ours_pos", "ours_abs": "ours_abs", "ours_full": "ours_full", "ours_noised": "ours_noised_row"}
ORACLE["ours_noised_total"] = "ours_noised_total"
NAMES = [*REFERENCE, *ORACLE]


def difference(found: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over each map's maximum."""
    a = found.double().numpy().reshape(expected.shape)
    return float((np.abs(a - expected).max(-1) / np.abs(expected).max(-1)).max())


def tolerance(dtype: torch.dtype, name: str) -> float:
    return 1e-9 if dtype == torch.float64 else 1e-3 if name == "grad_cam" else 1e-4


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def detr_maps(dtype):
    arrays = dict(np.load(GOLDEN / "detr" / "A_12x10.npz"))
    adapter = hetexp.load_model("detr", GOLDEN / "detr" / "modelA", dtype=dtype)
    inputs = {k: torch.from_numpy(arrays[k]) for k in ("pixel_values", "pixel_mask")}
    wanted = [targets.Logit(int(c), int(q)) for q, c in zip(arrays["targets"], arrays["classes"], strict=True)]
    return arrays, adapter, inputs, hetexp.explain(adapter, inputs, TABLE, wanted)


@pytest.fixture(scope="module")
def lxmert_parts(dtype):
    arrays = dict(np.load(GOLDEN / "lxmert" / "t08_b36.npz"))
    adapter = hetexp.load_model("lxmert", GOLDEN / "lxmert" / "model", dtype=dtype)
    names = ("input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos")
    inputs = {k: torch.from_numpy(arrays[k]) for k in names}
    return arrays, adapter, inputs


@pytest.mark.parametrize("name", NAMES)
def test_detr(detr_maps, dtype, name):
    arrays, _, _, maps = detr_maps
    key = f"{REFERENCE[name]}_f64" if name in REFERENCE else ORACLE[name]
    assert maps[name]["image"].shape == (7, 12, 10)
    assert difference(maps[name]["image"], arrays[key]) <= tolerance(dtype, name)


def test_detr_logits_and_kept_queries(detr_maps, dtype):
    arrays, adapter, inputs, _ = detr_maps
    logits, boxes = adapter.detect(inputs)
    assert np.abs(logits[0].double().numpy() - arrays["logits_f64"]).max() <= (
        1e-12 if dtype == torch.float64 else 1e-5
    )
    assert np.abs(boxes[0].numpy() - arrays["pred_boxes"]).max() <= 1e-5
    kept = hetexp.explain(adapter, inputs, "gae")["gae"]["image"]
    assert len(kept) == len(arrays["pipe_keep"])
    rows = [arrays["targets"].tolist().index(q) for q in arrays["pipe_keep"]]
    assert difference(kept, arrays["gae_f64"][rows]) <= tolerance(dtype, "gae")


@pytest.mark.parametrize("name", NAMES)
def test_lxmert(lxmert_parts, dtype, name):
    arrays, adapter, inputs = lxmert_parts
    maps = hetexp.explain(adapter, inputs, TABLE)[name]
    for stream in ("text", "image"):
        key = f"{REFERENCE[name]}_{stream}_f64" if name in REFERENCE else f"{ORACLE[name]}_{stream}"
        assert difference(maps[stream], arrays[key]) <= tolerance(dtype, name)


def test_lxmert_other_answer(lxmert_parts, dtype):
    arrays, adapter, inputs = lxmert_parts
    maps = hetexp.explain(adapter, inputs, "gae", targets.Logit(int(arrays["answer_b"])))["gae"]
    for stream in ("text", "image"):
        assert difference(maps[stream], arrays[f"gae_answer_b_{stream}_f64"]) <= tolerance(dtype, "gae")


@pytest.mark.parametrize("correction", ["full", "pos", "abs"])
@pytest.mark.parametrize("design", ["diff", "ratio", "rel_diff"])
def test_lxmert_loss_designs(lxmert_parts, dtype, correction, design):
    arrays, adapter, inputs = lxmert_parts
    kind = {"diff": targets.Difference, "ratio": targets.Ratio, "rel_diff": targets.RelativeDifference}[design]
    target = kind(int(arrays["answer_a"]), int(arrays["answer_b"]))
    maps = hetexp.explain(adapter, inputs, f"ours_{correction}", target)[f"ours_{correction}"]
    for stream in ("text", "image"):
        assert difference(maps[stream], arrays[f"loss_{design}_{correction}_{stream}"]) <= tolerance(dtype, "ours")
    logits = torch.from_numpy(arrays["logits_f64"])
    values = dict(zip(("logit", "diff", "ratio", "rel_diff"), arrays["loss_values"], strict=True))
    assert float(target(logits)) == pytest.approx(values[design])


def test_homologous_parts(lxmert_parts, dtype):
    arrays, adapter, inputs = lxmert_parts
    maps = hetexp.explain(adapter, inputs, {"parts": Homologous("abs")})["parts"]
    assert difference(maps["text"], arrays["homog_abs_lang_rollout"][:1]) <= tolerance(dtype, "ours")
    assert difference(maps["image"], arrays["homog_abs_vis_rollout"].sum(0)[None]) <= tolerance(dtype, "ours")
