"""VisualBERT and ViLT through the question-answering experiment: removal is what the library does with what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_helpers import Compose, run_to
from tiny import enliven
from torch import Tensor
from transformers import (
    BertTokenizerFast,
    ViltConfig,
    ViltForQuestionAnswering,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
)
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from hetexp import load_model
from hetexp.errors import CheckpointError, ConfigError, InputError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, n_kept
from hetexp.experiments.engine.session import Session, open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.vqa.attribution import attribute_all
from hetexp.experiments.vqa.measure import read_outcome
from hetexp.models.protocols import EncodedQuestion, ReadsPictures

WORDS = "is there a zebra dog cat and or what color the umbrella how many birds are no picture left of".split()
SIZES: dict[str, Any] = {
    "vocab_size": 5 + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "num_labels": 15,
}
WIDTH = 24  # numbers per region of the toy data
PATCH = 8

# What the library says of some words and some parts of a picture: ids [T], image, features and boxes of its parts.
Library = Callable[[Any, Tensor, Image.Image, list[int]], Tensor]


def visual_bert(appends_boxes: bool) -> VisualBertForQuestionAnswering:
    width = WIDTH + 4 * appends_boxes
    more = {"appends_boxes": True} if appends_boxes else {}
    return VisualBertForQuestionAnswering(VisualBertConfig(**SIZES, visual_embedding_dim=width, **more))


def save(model: Any, folder: Path) -> Path:
    """A checkpoint with a tokenizer of a few words and, for pictures, an image processor."""
    torch.manual_seed(0)
    enliven(model, 0, 0.8)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=20).save_pretrained(folder)
    if model.config.model_type == "vilt":
        ViltImageProcessorPil(size={"shortest_edge": 24}, size_divisor=PATCH).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Toy:
    """A checkpoint, and its library's own answer to a part of an input, one at a time."""

    checkpoint: Path
    logits: Callable[[Session, Tensor, str, list[int]], Tensor]


def regions_left(session: Session, ids: Tensor, img_id: str, kept: list[int]) -> Tensor:
    """Words that stay, then regions that stay, boxes behind them where the checkpoint says so: a shorter input."""
    model, found = session.adapter.model, session.data.regions.regions(img_id)
    seen = (
        np.concatenate([found.features, found.boxes], 1) if hasattr(model.config, "appends_boxes") else found.features
    )
    assert seen.shape[1] == model.config.visual_embedding_dim
    left: Tensor = model(
        input_ids=ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        visual_embeds=torch.from_numpy(seen[kept])[None] if kept else None,
    ).logits
    return left


def patches_left(session: Session, ids: Tensor, img_id: str, kept: list[int]) -> Tensor:
    """Words that stay, then CLS and patches that stay: embedded by the library in the whole picture, then taken out."""
    model = session.adapter.model
    image = Image.open(Path(session.cfg.data.root, session.cfg.data.images, f"{img_id}.png")).convert("RGB")
    pixels = session.adapter.processor.image_processor(image, return_tensors="pt")["pixel_values"]
    mask = torch.ones(1, *pixels.shape[2:], dtype=torch.long)
    whole, _, (index, grid) = model.vilt.embeddings.visual_embed(pixels, mask, -1)
    number = (index[0, :, 0] * grid[1] + index[0, :, 1]).tolist()
    rows = [0, *(1 + number.index(i) for i in kept)]
    left: Tensor = model(
        input_ids=ids[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        image_embeds=whole[:, rows],
        pixel_mask=torch.ones(1, len(rows), dtype=torch.long),
    ).logits
    return left


@pytest.fixture(scope="module", params=["regions", "regions and boxes", "patches"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("joint") / "tiny"
    if request.param == "patches":
        return Toy(
            save(ViltForQuestionAnswering(ViltConfig(**SIZES, image_size=32, patch_size=PATCH)), folder), patches_left
        )
    return Toy(save(visual_bert(request.param == "regions and boxes"), folder), regions_left)


@pytest.fixture
def joint_config(toy_vqa_config: Compose, toy: Toy) -> Compose:
    def build(*overrides: str) -> Any:
        name = "vilt" if toy.logits is patches_left else "visualbert"
        return toy_vqa_config(f"model={name}", f"model.checkpoint={toy.checkpoint}", *overrides)

    return build


THREE = "methods=[gae,ours_pos,random]"


def test_batched_perturbation_equals_removal_one_at_a_time(joint_config: Compose, toy: Toy, tmp_path: Path) -> None:
    session = open_session(joint_config(THREE), tmp_path / "run")
    attribute_all(session)
    answers = set()
    for spec in session.methods:
        outcome, skipped = read_outcome(session, spec)
        assert not skipped
        for row, question in enumerate(session.data.questions):
            ids = torch.tensor(session.adapter.tokenizer(question.sent)["input_ids"])
            parts = list(range(len(outcome.image[row])))
            assert len(parts) == len(outcome.boxes[row])
            whole = toy.logits(session, ids, question.img_id, parts)
            assert outcome.questions["predicted"][row] == int(whole.argmax())
            for p, (modality, positive) in enumerate(PANELS.values()):
                for f, fraction in enumerate(FRACTIONS):
                    text, kept = list(range(len(ids))), parts
                    relevance = outcome.image[row] if modality == "image" else outcome.text[row][1:-1]
                    order = torch.topk(-relevance if positive else relevance, n_kept(len(relevance), fraction)).indices
                    if modality == "image":
                        kept = order.tolist()
                    else:
                        text = [0, *sorted(i + 1 for i in order.tolist()), len(ids) - 1]
                    alone = int(toy.logits(session, ids[text], question.img_id, kept).argmax())
                    assert outcome.answers[row, p, f] == alone
                    answers.add(alone)
    assert len(answers) > 2


def test_padding_and_batching_change_no_logit(joint_config: Compose, toy: Toy, tmp_path: Path) -> None:
    adapter = load_model(toy.checkpoint, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    features = torch.randn(9, adapter.feature_width, generator=g).double()
    boxes = torch.rand(9, 4, generator=g).double()
    asked = [("is there a zebra", 9), ("what color is the umbrella", 4), ("birds", 1)]
    encoded = [adapter.encode(words, features[:n], boxes[:n]) for words, n in asked]
    together = adapter.predict(adapter.collate(encoded))
    parts = adapter.answer_parts(
        adapter.encode_texts([e.input_ids for e in encoded]),
        adapter.encode_regions(adapter.embed_regions([(e.features, e.boxes) for e in encoded])),
    )
    for row, one in enumerate(encoded):
        alone = adapter.predict(adapter.collate([one]))[0]
        assert torch.allclose(together[row], alone, rtol=0, atol=1e-12)
        assert torch.allclose(parts[row], alone, rtol=0, atol=1e-12)
    blind = EncodedQuestion(encoded[0].input_ids, features[:0], boxes[:0])
    mixed = adapter.predict(adapter.collate([blind, encoded[1]]))
    assert torch.allclose(mixed[0], adapter.predict(adapter.collate([blind]))[0], rtol=0, atol=1e-12)
    assert torch.allclose(mixed[1], together[1], rtol=0, atol=1e-12)
    assert not torch.allclose(mixed[0], together[0], atol=1e-3), "the picture decides nothing"


def test_results_have_curves_and_localisation(joint_config: Compose, tmp_path: Path) -> None:
    frame = run_to(joint_config(THREE, "controls=[oracle]"), tmp_path / "run")
    own = frame[frame["method"].isna()]["value"].item()
    for panel in PANELS:
        part = frame[(frame["panel"] == panel) & (frame["method"] == "gae")].set_index("metric")["value"]
        assert part["accuracy@0"] == pytest.approx(own)
        assert part["AUC"] == pytest.approx(np.trapezoid([part[f"accuracy@{f:g}"] for f in FRACTIONS], FRACTIONS))
    assert not frame[frame["panel"] == "localisation"].empty


def test_an_own_picture_is_explained(joint_config: Compose, toy: Toy, toy_vqa: Path, tmp_path: Path) -> None:
    image = toy_vqa / "images" / "001.png"
    session = open_session(
        joint_config("task=explain", f"image={image}", "question=is there a dog", THREE), tmp_path / "run"
    )
    explain_own(session)
    assert (tmp_path / "run" / "explanation.png").is_file()


def test_pictures_are_cut_into_patches_row_by_row(tmp_path: Path) -> None:
    adapter = load_model(
        save(ViltForQuestionAnswering(ViltConfig(**SIZES, image_size=32, patch_size=PATCH)), tmp_path / "m")
    )
    assert isinstance(adapter, ReadsPictures)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    tokens, boxes = adapter.regions_of(Image.fromarray(pixels))
    assert tokens.shape == (12, 16)
    assert boxes[0].tolist() == pytest.approx([0, 0, 1 / 4, 1 / 3])
    assert boxes[5].tolist() == pytest.approx([1 / 4, 1 / 3, 2 / 4, 2 / 3])
    pixels[8:16, 8:16] = 255 - pixels[8:16, 8:16]  # patch 5, and nothing else
    changed = (adapter.regions_of(Image.fromarray(pixels))[0] - tokens).abs().amax(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [5]


def test_what_does_not_fit_is_refused(toy_vqa_config: Compose, toy_vqa: Path, tmp_path: Path) -> None:
    folder = save(visual_bert(appends_boxes=True), tmp_path / "m")
    adapter = load_model(folder)
    with pytest.raises(InputError, match="have 28 numbers, this checkpoint reads 24"):
        adapter.encode("a dog", torch.ones(2, 28), torch.ones(2, 4))
    cfg = toy_vqa_config("model=visualbert", f"model.checkpoint={folder}", "method=gae", "data.regions=null")
    with pytest.raises(ConfigError, match=r"visual_bert reads regions.*set data\.regions=FILE"):
        run_to(cfg, tmp_path / "run")
    with pytest.raises(CheckpointError, match="2 answers were given for 15 answer logits"):
        load_model(folder, answers=["yes", "no"])
    (folder / "label2ans.json").write_text(str([f"a{i}" for i in range(14, -1, -1)]).replace("'", '"'))
    assert load_model(folder).labels[0] == "a14"
    cfg = toy_vqa_config("model=visualbert", f"model.checkpoint={folder}", "method=gae")
    with pytest.raises(CheckpointError, match=r"answer 0 is 'a0' in answers\.json and 'a14' in the checkpoint"):
        run_to(cfg, tmp_path / "other")


def test_patches_need_no_region_file(toy_vqa_config: Compose, tmp_path: Path) -> None:
    folder = save(ViltForQuestionAnswering(ViltConfig(**SIZES, image_size=32, patch_size=PATCH)), tmp_path / "m")
    cfg = toy_vqa_config("model=vilt", f"model.checkpoint={folder}", "method=gae", "data.regions=null")
    assert not run_to(cfg, tmp_path / "run").empty
