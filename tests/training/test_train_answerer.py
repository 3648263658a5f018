"""Training of the question-answering models: every architecture learns; the shipped ones answer as their cards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answerers import ARCHITECTURES, Architecture
from question_data import Encoder
from train_answerer import Trainee, accuracy, rate, save_model, validation
from transformers import AutoTokenizer

from hetexp.paths import asset


@pytest.fixture(scope="module")
def asked() -> tuple[Encoder, list[dict[str, Any]]]:
    folder = Path(asset("visualbert"))
    return validation(folder, json.loads((folder / "label2ans.json").read_text(encoding="utf-8")))


def trainee(architecture: Architecture, encoder: Encoder, role_loss: float) -> Trainee:
    tokenizer = AutoTokenizer.from_pretrained(asset("visualbert"))
    words = torch.tensor([tokenizer.convert_tokens_to_ids(["zebra"] * 24)])
    config = architecture.configuration(len(tokenizer), encoder.pool.features.shape[-1], list(encoder.answers), 24)
    torch.manual_seed(0)
    return Trainee(architecture, config, words, role_loss).train()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_is_learned(name: str, asked: tuple[Encoder, list[dict[str, Any]]]) -> None:
    encoder, questions = asked
    model = trainee(ARCHITECTURES[name], encoder, role_loss=1.0)
    batch = encoder.batch(questions[:8], None, "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss, parts = model(batch, auxiliary=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert set(parts) == {"answer", "class", "role", "right"}
    assert losses[-1] < 0.7 * losses[0]
    unused = [n for n, p in model.named_parameters() if n.startswith("region_") and p.grad is None]
    assert not unused


def test_without_roles_nothing_reads_which_objects_decide(asked: tuple[Encoder, list[dict[str, Any]]]) -> None:
    encoder, questions = asked
    model = trainee(ARCHITECTURES["visualbert"], encoder, role_loss=0.0)
    batch = encoder.batch(questions[:4], None, "cpu")
    loss, parts = model(batch, auxiliary=1.0)
    other, _ = model(batch | {"role": torch.full_like(batch["role"], 4)}, auxiliary=1.0)
    assert "role" not in parts
    assert torch.equal(loss, other)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shipped_models_answer(name: str, asked: tuple[Encoder, list[dict[str, Any]]]) -> None:
    encoder, questions = asked
    model = ARCHITECTURES[name].model.from_pretrained(asset(name))
    assert accuracy(ARCHITECTURES[name], model, encoder, questions[::20], "cpu")["all"] >= 0.9


def test_a_saved_folder_keeps_what_else_is_there(tmp_path: Path, asked: tuple[Encoder, list[dict[str, Any]]]) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_text("card")
    model = trainee(ARCHITECTURES["visualbert"], asked[0], 0.0).model
    save_model(model, list(asked[0].answers), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["VisualBertForQuestionAnswering"]
    assert config["appends_boxes"] is True
    assert config["id2label"]["0"] == "yes"
    assert (tmp_path / "m" / "README.md").read_text() == "card"


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert rate(0.0, 1.0) < rate(0.02, 1.0) < rate(0.5, 1.0) == 1.0
    assert rate(0.7, 1.0) == pytest.approx(1.0)
    assert rate(1.0, 1.0) == pytest.approx(0.01)
