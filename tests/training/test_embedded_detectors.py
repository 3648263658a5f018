"""The embedded detectors: plain checkpoints of the library's classes, whose cards describe them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import train_detector
from architectures import ARCHITECTURES
from safetensors import safe_open
from transformers import AutoConfig

from hetexp.paths import asset

MIB = 2**20
LARGEST = {"detr": 8 * MIB, "conditional_detr": 6e6, "deformable_detr": 6e6}  # bytes
LEAST_AP50 = 85.0  # percent


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(name: str) -> Path:
    return Path(asset(name))


@pytest.fixture
def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_checkpoint_loads_whole_into_the_librarys_class(name, folder):
    architecture = ARCHITECTURES[name]
    model, info = architecture.model.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (folder / "model.safetensors").stat().st_size <= LARGEST[name]
    expected = architecture.configuration().to_dict()
    same = ("d_model", "num_queries", "encoder_layers", "decoder_layers", "id2label", *architecture.settings)
    found = model.config.to_dict()
    assert {key: found[key] for key in same} == {key: expected[key] for key in same}


def test_image_processor_is_that_of_the_scenes(name, folder):
    processor = ARCHITECTURES[name].processor.from_pretrained(folder)
    ours = ARCHITECTURES[name].image_processor()
    assert {k: getattr(processor, k) for k in ("size", "image_mean", "image_std")} == {
        k: getattr(ours, k) for k in ("size", "image_mean", "image_std")
    }


def test_card_describes_the_checkpoint(name, folder, card):
    config = AutoConfig.from_pretrained(folder)
    text = " ".join(card.split())
    model = ARCHITECTURES[name].model(config)
    count = sum(p.numel() for p in model.parameters())
    assert f"`{type(model).__name__}` ({count / 1e6:.1f} M parameters)" in text
    assert f"{config.encoder_layers} + {config.decoder_layers} layers, {config.num_queries} queries" in text
    with safe_open(folder / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - not a mapping
    assert ("F16" in kinds) == ("stored in float16" in text)


def test_card_reports_all_scenes(name, card):
    assert "On all scenes of `hetexp/assets/scenes/val`" in card
    values = {text: float(value) for text, value in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|$", card, re.MULTILINE)}
    assert values["box AP50, %"] >= LEAST_AP50
    for threshold in ARCHITECTURES[name].thresholds:
        for share in ("precision", "recall"):
            assert 0.4 < values[f"{share} of queries with p > {threshold:g}"] <= 1


def test_commands_of_the_card_are_understood(card, monkeypatch, tmp_path):
    """Recipes parse as they stand; --resume finds the checkpoint that the command before it leaves."""
    (tmp_path / "backbone.safetensors").touch()
    commands = re.findall(r"^    python scripts/training/train_detector\.py (.*)$", card, re.MULTILINE)
    assert commands[0].startswith("--evaluate")
    assert len(commands) >= 2
    for command in commands:
        monkeypatch.setattr("sys.argv", ["train_detector.py", *command.replace("WORK", str(tmp_path)).split()])
        args = train_detector.parse()
        if args.evaluate is None:
            args.checkpoint.touch()
