"""Architectures, checkpoints that load, and those that are refused with what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GroundingDinoConfig

from hetexp.errors import CheckpointError, ConfigError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.registry import ARCHITECTURES, architecture_of, load_model
from hetexp.paths import asset

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


@pytest.mark.parametrize("auto", [False, True])
def test_the_architecture_is_read_from_the_checkpoint(detr: Path, lxmert: Path, auto: bool) -> None:
    """`load_model(checkpoint)` and `load_model("auto", checkpoint)` alike, paths and strings alike."""
    for folder, kind in ((detr, DetrAdapter), (lxmert, LxmertAdapter)):
        for source in (folder, str(folder)):
            adapter = load_model("auto", source) if auto else load_model(source)
            assert isinstance(adapter, kind)
    assert load_model(detr, dtype=torch.float64, score_threshold=0.25).score_threshold == 0.25
    assert load_model(detr, dtype=torch.float64).dtype == torch.float64


def test_architectures_know_their_kind(detr: Path, lxmert: Path) -> None:
    assert architecture_of(detr) is ARCHITECTURES["detr"]
    assert architecture_of(lxmert) is ARCHITECTURES["lxmert"]
    assert (ARCHITECTURES["detr"].kind, ARCHITECTURES["lxmert"].kind) == ("detection", "vqa")
    for name, architecture in ARCHITECTURES.items():
        assert architecture.name == name
        assert callable(architecture.load)


@pytest.mark.parametrize("name", ["detr", "lxmert", "auto"])
def test_a_name_without_a_checkpoint(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"load_model\('{name}'\) lacks a checkpoint: give a folder or a hub id"):
        load_model(name)


def test_a_folder_named_like_an_architecture_is_a_checkpoint(detr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(detr.parent)
    assert isinstance(load_model("detr"), DetrAdapter)


@pytest.mark.parametrize("auto", [False, True])
def test_architectures_that_are_not_supported(tmp_path: Path, auto: bool) -> None:
    GroundingDinoConfig().save_pretrained(tmp_path)
    known = f"supported are {', '.join(ARCHITECTURES)}"
    with pytest.raises(CheckpointError, match=rf"is a 'grounding-dino' checkpoint, which is not supported: {known}"):
        load_model("auto", tmp_path) if auto else load_model(tmp_path)
    with pytest.raises(CheckpointError, match="is a 'grounding-dino' checkpoint, expected 'detr'"):
        load_model("detr", tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "a/b/c"])
def test_missing_checkpoints_without_a_name(source: str) -> None:
    with pytest.raises(CheckpointError, match="is no folder: give a folder"):
        load_model(source)


def test_options(detr: Path, lxmert: Path) -> None:
    adapter = load_model("detr", detr, score_threshold=0.25, autocast="bfloat16")
    assert (adapter.score_threshold, adapter.autocast) == (0.25, "bfloat16")
    adapter = load_model("detr", detr, score_threshold=None, autocast=None)
    assert (adapter.score_threshold, adapter.autocast) == (0.5, None)  # what the architecture says
    with pytest.raises(ConfigError, match="model 'detr' has no option answers: its options are score_threshold, autoc"):
        load_model("detr", detr, answers=["yes"])
    with pytest.raises(ConfigError, match="model 'lxmert' has no option autocast, keep: its options are answers"):
        load_model(lxmert, keep=0.5, autocast="float16")
    with pytest.raises(ConfigError, match="autocast='int8' must be bfloat16 or float16"):
        load_model("detr", detr, autocast="int8")


def test_shipped_checkpoints() -> None:
    detr, lxmert = load_model(asset("detr")), load_model(asset("lxmert"))
    assert detr.processor is not None
    assert "zebra" in detr.labels.values()
    assert len(lxmert.labels) == lxmert.n_answers


def test_unknown_model(detr: Path) -> None:
    with pytest.raises(ConfigError, match=f"unknown model 'nope'. Available models: {', '.join(ARCHITECTURES)}"):
        load_model("nope", detr)


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
    assert load_model("lxmert", lxmert, answers=names).answers == names
    (lxmert / "label2ans.json").write_text(json.dumps(names))
    assert load_model("lxmert", lxmert).answers == names
    with pytest.raises(CheckpointError, match="3 answers were given for 15 answer logits"):
        load_model("lxmert", lxmert, answers=names[:3])


@pytest.mark.parametrize("text", ["{", "3", "[1, 2]", '{"0": "yes", "1": "no"}'])
def test_damaged_answer_list(lxmert: Path, text: str) -> None:
    """A table of answers by number would pass for a list of its keys."""
    (lxmert / "label2ans.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"label2ans\.json (is damaged|must be a list of answer strings)"):
        load_model("lxmert", lxmert)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_processor_settings(tmp_path: Path, text: str) -> None:
    """They are left out where there are none, never where they cannot be read."""
    folder = Path(shutil.copytree(asset("detr"), tmp_path / "detr"))
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        load_model("detr", folder)
    (folder / "preprocessor_config.json").unlink()
    assert load_model("detr", folder).processor is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(asset("lxmert"), tmp_path / "lxmert"))
    (folder / name).write_text("{")
    with pytest.raises(CheckpointError, match=r"the tokenizer of '.*' is damaged"):
        load_model("lxmert", folder)
