"""Models of text, sound and pictures load with their own processors, and make inputs with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_blip import blip
from test_encoder_decoders import marian, t5, trocr, whisper
from test_joint_streams import vilt, visual_bert
from test_two_towers import clip, siglip
from text_models import tiny_bart
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import hetexp
from hetexp.config import composed
from hetexp.errors import ConfigError
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "dog", "cat", "is", "what", "colour", "it"]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))
MODELS = {
    "bart": tiny_bart,
    "marian": marian,
    "t5": t5,
    "whisper": whisper,
    "vision-encoder-decoder": trocr,
    "visual_bert": visual_bert,
    "vilt": vilt,
    "blip": blip,
    "clip": clip,
    "siglip": siglip,
}
SIZE = {"height": 32, "width": 32}
PICTURES = {
    "vision-encoder-decoder": ViTImageProcessorPil(size=SIZE),
    "vilt": ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8),
    "blip": BlipImageProcessorPil(size=SIZE),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE),
    "siglip": SiglipImageProcessorPil(size=SIZE),
}


def tokenizer(folder: Path, bert: bool, end: int) -> Any:
    """Whole words; sentences end with </s>, or stand between [CLS] and [SEP]."""
    if bert:
        words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *VOCABULARY[4:]]
        (folder / "vocab.txt").write_text("\n".join(words))
        return BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=12)
    known = {word: i for i, word in enumerate(VOCABULARY)}
    known["</s>"] = end
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", end)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=12, **special)


@pytest.fixture(params=MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    name = request.param
    folder = tmp_path / name
    MODELS[name]().float().save_pretrained(folder)
    tokenizer(folder, name in ("visual_bert", "vilt", "blip"), 29 if name == "clip" else 2).save_pretrained(folder)
    if name in PICTURES:
        PICTURES[name].save_pretrained(folder)
    if name == "whisper":
        WhisperFeatureExtractor(feature_size=5, chunk_length=1, hop_length=888, n_fft=400).save_pretrained(folder)
    return name, folder


def prepared(adapter: Any) -> dict[str, torch.Tensor]:
    match adapter.name:
        case "bart" | "marian" | "t5":
            return adapter.prepare(text=["a red dog", "a cat"], target=["it is red", "it"])
        case "whisper":
            return adapter.prepare(audio=np.sin(np.arange(16000) / 9), target="it is")
        case "vision-encoder-decoder":
            return adapter.prepare(image=PHOTO, target="red dog")
        case "visual_bert":
            return adapter.prepare(text=["what is it", "what colour"], regions=[torch.ones(3, 7), torch.ones(2, 7)])
        case "blip":
            return adapter.prepare(text="what colour is it", image=PHOTO, target="red")
        case "clip" | "siglip":
            return adapter.prepare(text=["a dog", "a red cat"], image=PHOTO)
    return adapter.prepare(text=["what colour", "what is it"], image=[PHOTO, PHOTO])


def test_loads_prepares_and_explains(checkpoint: tuple[str, Path]) -> None:
    name, folder = checkpoint
    adapter = hetexp.load_model(folder)
    assert adapter.name == name
    inputs = prepared(adapter)
    found = hetexp.explain(adapter, inputs, ["ours_abs", "gae"])
    assert set(found["ours_abs"]) == set(adapter.sources)
    assert all(x.shape[0] == len(found.rows) and x.isfinite().all() for x in found["ours_abs"].values())
    words = adapter.token_texts(inputs)
    for source, own in words.items():
        assert len(own) == found["ours_abs"][source].shape[1]
    assert any("red" in own or "dog" in own or "what" in own or "it" in own for own in words.values())
    assert adapter.preparation["tokenizer"]
    if name in PICTURES:
        assert adapter.preparation["image_processor"]
    if "target" in words:
        assert inputs["decoder_input_ids"][0, 0] == adapter.start_token
        assert "</s>" not in adapter.words(inputs["decoder_input_ids"][0][1:])


def test_experiments_refuse_what_they_cannot_run(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    clip().float().save_pretrained(folder)
    cfg = composed("model=auto", f"model.checkpoint={folder}", f"paths.outputs={tmp_path / 'outputs'}", "limit=1")
    with pytest.raises(ConfigError, match=r"'clip' is of the kind 'similarity'.*hetexp\.explain"):
        evaluate(open_session(cfg, tmp_path / "run"))
