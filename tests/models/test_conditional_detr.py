"""Conditional DETR: every method against the dense oracle, padding, loading, and Tables 1 and 2 on a random one."""

from __future__ import annotations

import copy
from pathlib import Path

import oracle
import pandas as pd
import pytest
import torch
from compare import distance, tolerance
from own_checkpoints import category_names
from tiny import lively, picture, tiny_backbone
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil

import hetexp
from hetexp.config import composed
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate
from hetexp.models.conditional_detr import ConditionalDetrAdapter
from hetexp.targets import BoxSide, Logit

METHODS = [name for name in hetexp.METHODS if name in oracle.METHODS]
QUERIES, CLASSES = 6, 5


def tiny(seed: int = 0, names: list[str] | None = None) -> ConditionalDetrForObjectDetection:
    torch.manual_seed(seed)
    config = ConditionalDetrConfig(
        backbone_config=tiny_backbone(),
        use_timm_backbone=False,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=QUERIES,
        id2label=dict(enumerate(names or [f"c{i}" for i in range(CLASSES)])),
        attn_implementation="eager",
    )
    model: ConditionalDetrForObjectDetection = lively(ConditionalDetrForObjectDetection(config), seed, 0.7)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [(64, 48), (33, 80)])
def test_every_method_equals_the_oracle(size: tuple[int, int], dtype: torch.dtype) -> None:
    model, pixels = tiny(1), picture(*size, seed=7)
    targets = [Logit(q % CLASSES, query=q) for q in range(QUERIES)]
    runs = [oracle.run_detector(model, pixels, q, Logit(q % CLASSES), no_object=False) for q in range(QUERIES)]
    adapter = ConditionalDetrAdapter(copy.deepcopy(model).to(dtype))
    found = hetexp.explain(adapter, {"pixel_values": pixels.to(dtype)}, METHODS, targets)
    for method in METHODS:
        want = torch.stack([oracle.METHODS[method](run)["image"] for run in runs])
        assert float(want.abs().max()) > 0
        assert distance(found.tokens(method, "image"), want) <= tolerance(method, dtype), method


def test_box_targets_equal_the_oracle() -> None:
    model, pixels = tiny(2), picture(64, 48, seed=3)
    run = oracle.run_detector(model, pixels, 2, BoxSide("top"), of="box", no_object=False)
    found = hetexp.explain(ConditionalDetrAdapter(model), {"pixel_values": pixels}, METHODS, BoxSide("top", query=2))
    for method in METHODS:
        want = oracle.METHODS[method](run)["image"][None]
        assert distance(found.tokens(method, "image"), want) <= 1e-9, method


def test_detections_are_the_class_s_own() -> None:
    model, pixels = tiny(3), picture(64, 48, seed=4)
    (found,) = ConditionalDetrAdapter(model).detect({"pixel_values": pixels})
    own = model(pixel_values=pixels)
    assert torch.allclose(found.logits, own.logits[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.boxes, own.pred_boxes[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.scores, own.logits[0].sigmoid().amax(-1), rtol=0, atol=1e-11)


def test_padded_input_equals_the_unpadded() -> None:
    adapter, pixels = ConditionalDetrAdapter(tiny(4), score_threshold=0), picture(48, 64, seed=5)
    padded = torch.zeros(1, 3, 80, 96, dtype=pixels.dtype)
    padded[:, :, :48, :64] = pixels
    mask = torch.zeros(1, 80, 96)
    mask[:, :48, :64] = 1
    alone = hetexp.explain(adapter, {"pixel_values": pixels}, METHODS)
    together = hetexp.explain(adapter, {"pixel_values": padded, "pixel_mask": mask}, METHODS)
    for method in METHODS:
        got = together[method]["image"]
        assert bool((got[:, 3:] == 0).all())
        assert bool((got[:, :, 4:] == 0).all())
        assert distance(together.item(0)[method]["image"], alone[method]["image"]) <= 1e-9, method


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small random one with the embedded scenes' classes."""
    folder = tmp_path / "conditional"
    tiny(5, category_names()).float().save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 128}
    ConditionalDetrImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def test_loads_by_its_configuration(checkpoint: Path) -> None:
    adapter = hetexp.load_model(checkpoint, score_threshold=0.25)
    assert (adapter.name, adapter.score_threshold) == ("conditional_detr", 0.25)
    assert "zebra" in adapter.labels.values()


def test_tables_of_a_random_one(checkpoint: Path, tmp_path: Path) -> None:
    cfg = composed(
        "model=conditional_detr",
        f"model.checkpoint={checkpoint}",
        "model.score_threshold=0.3",
        "methods=[gae,odam,ours_abs,ours_pos,ours_noised]",
        "threshold.scale=[1.0,0.3]",
        "limit=4",
        "progress=false",
        f"paths.outputs={tmp_path / 'outputs'}",
    )
    evaluate(open_session(cfg, tmp_path / "run"))
    frame = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(frame["model"]) == {"conditional_detr"}
    assert len(frame) == 5 * 2 * 6
    assert frame[frame["metric"] == "AR"]["value"].notna().all()
