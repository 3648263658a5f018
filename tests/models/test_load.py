"""Checkpoints that load, and those that are refused with what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hetexp.errors import CheckpointError, ConfigError
from hetexp.models.load import load_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def detr(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "detr" / "modelA", tmp_path / "detr"))


@pytest.fixture
def lxmert(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "lxmert" / "model", tmp_path / "lxmert"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loads(detr: Path, lxmert: Path, dtype: torch.dtype) -> None:
    for name, folder in (("detr", detr), ("lxmert", lxmert)):
        adapter = load_model(name, folder, dtype=dtype)
        assert adapter.name == name
        assert adapter.dtype == dtype
        assert not adapter.model.training
    assert load_model("detr", str(detr)).labels[3] == "c3"


def test_unknown_model(detr: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'vilt'. Available models: detr, lxmert"):
        load_model("vilt", detr)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "/no/such/folder", "a/b/c"])
def test_missing_folder(source: str) -> None:
    with pytest.raises(CheckpointError, match="is no folder: give a folder"):
        load_model("detr", source)


def test_a_file_is_no_folder(detr: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        load_model("detr", detr / "config.json")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model("detr", tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-model"}', "[]"])
def test_damaged_config(detr: Path, text: str) -> None:
    (detr / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model("detr", detr)


def test_wrong_architecture(detr: Path, lxmert: Path) -> None:
    with pytest.raises(CheckpointError, match="'lxmert' checkpoint, expected 'detr'"):
        load_model("detr", lxmert)
    with pytest.raises(CheckpointError, match="'detr' checkpoint, expected 'lxmert'"):
        load_model("lxmert", detr)


def test_damaged_weights(detr: Path) -> None:
    weights = detr / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], b"\xff" * 64, b""):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_model("detr", detr)


def test_no_weights(detr: Path) -> None:
    (detr / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        load_model("detr", detr)


def test_missing_weights_are_named(detr: Path) -> None:
    state = load_file(detr / "model.safetensors")
    gone = sorted(k for k in state if "decoder.layers.1.self_attn" in k)
    save_file({k: v for k, v in state.items() if k not in gone}, detr / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing model.decoder.layers.1.self_attn") as caught:
        load_model("detr", detr)
    assert (
        f"and {len(gone) - 8} more" in str(caught.value) if len(gone) > 8 else all(k in str(caught.value) for k in gone)
    )


def test_mismatched_shapes_are_named(detr: Path) -> None:
    state = load_file(detr / "model.safetensors")
    state["class_labels_classifier.weight"] = state["class_labels_classifier.weight"][:-2].clone()
    save_file(state, detr / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"class_labels_classifier.weight has shape \[7, 32\], expected \[9, 32\]"
    ):
        load_model("detr", detr)


def test_answer_list(lxmert: Path) -> None:
    names = [f"a{i}" for i in range(15)]
    assert load_model("lxmert", lxmert, answers=names).answers == names  # type: ignore[union-attr]
    (lxmert / "label2ans.json").write_text(json.dumps(names))
    assert load_model("lxmert", lxmert).answers == names  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="3 answers were given for 15 answer logits"):
        load_model("lxmert", lxmert, answers=names[:3])
