"""A checkpoint with NaN is refused by every task that runs it, before any number is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_helpers import Compose
from safetensors.torch import load_file, save_file

from hetexp.errors import CheckpointError
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.tasks import evaluate, make_samples


def poisoned(model: Path, folder: Path, weight: str) -> Path:
    """A copy of a checkpoint in which one weight holds NaN."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[weight].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("task", ["evaluate", "explain", "samples"])
def test_of_a_detector(toy_config: Compose, toy_model: Path, toy_scenes: Path, tmp_path: Path, task: str) -> None:
    weight = "model.encoder.layers.0.self_attn.q_proj.weight"
    model = poisoned(toy_model, tmp_path / "poisoned", weight)
    image = toy_scenes / "images" / "001.png"
    cfg = toy_config(f"model.checkpoint={model}", f"task={task}", f"image={image}", "limit=2")
    run = {"evaluate": evaluate, "explain": explain_own, "samples": make_samples}[task]
    with pytest.raises(CheckpointError, match=rf"is model.encoder.layers.0.self_attn.q_proj\. .* {weight} \(1"):
        run(open_session(cfg, tmp_path / "run"))
    assert not list(tmp_path.rglob("results.csv"))


@pytest.mark.parametrize("task", ["evaluate", "samples"])
def test_of_a_model_that_answers(toy_vqa_config: Compose, toy_vqa_model: Path, tmp_path: Path, task: str) -> None:
    weight = "lxmert.encoder.x_layers.0.lang_inter.dense.weight"
    model = poisoned(toy_vqa_model, tmp_path / "poisoned", weight)
    cfg = toy_vqa_config(f"model.checkpoint={model}", f"task={task}", "limit=2", "data.name=toy")
    with pytest.raises(CheckpointError, match=rf"is lxmert.encoder.x_layers.0.lang_inter.dense\. .* {weight} \(1"):
        (evaluate if task == "evaluate" else make_samples)(open_session(cfg, tmp_path / "run"))
    assert not list(tmp_path.rglob("results.csv"))
