"""task=explain of models that write and of two towers: text, pictures and sound of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from test_mixture_loading import MODELS, PHOTO, PICTURES, tokenizer
from transformers import WhisperFeatureExtractor

import hetexp
from hetexp.config import composed, without_data
from hetexp.errors import ConfigError, InputError
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.own_inputs import seen_picture
from hetexp.explanation import Explanation
from hetexp.targets import Logit

SOUND = np.sin(np.arange(8000) / 9).astype(np.float32)  # half of what the model hears
INPUTS = {
    "bart": ["text=a red dog"],
    "t5": ["text=a red dog"],
    "whisper": ["audio=AUDIO"],
    "vision-encoder-decoder": ["image=IMAGE"],
    "blip": ["image=IMAGE", "question=what is it"],
    "clip": ["image=IMAGE", "text=a red dog"],
    "siglip": ["image=IMAGE", "text=a red dog"],
}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of every model, a picture and a recording."""
    root = tmp_path_factory.mktemp("own")
    PHOTO.save(root / "photo.png")
    wavfile.write(root / "sound.wav", 16000, SOUND)
    for name in INPUTS:
        MODELS[name]().float().save_pretrained(root / name)
        (root / name).mkdir(exist_ok=True)
        tokenizer(root / name, name == "blip", 29 if name == "clip" else 2).save_pretrained(root / name)
        if name in PICTURES:
            PICTURES[name].save_pretrained(root / name)
    heard = WhisperFeatureExtractor(feature_size=5, chunk_length=1, hop_length=888, n_fft=400)
    heard.save_pretrained(root / "whisper")
    return root


def run(home: Path, folder: Path, name: str, *options: str) -> Explanation:
    """What task=explain wrote."""
    named = [o.replace("IMAGE", str(home / "photo.png")).replace("AUDIO", str(home / "sound.wav")) for o in options]
    cfg = composed(
        "task=explain", "model=auto", f"model.checkpoint={home / name}", "methods=[ours_abs,ours_full]", *named
    )
    explain_own(open_session(without_data(cfg), folder))
    return Explanation.load(folder / "explanation" / "input")


@pytest.mark.parametrize("name", INPUTS)
def test_every_model_is_explained(name: str, home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path, name, *INPUTS[name])
    adapter = hetexp.load_model(home / name)
    assert set(found["ours_abs"]) == set(adapter.sources)
    assert (tmp_path / "explanation.png").stat().st_size > 5_000
    assert (tmp_path / "explanation.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "explanation.html").read_text()
    assert all(token in page for token in found.token_texts.get("text", []) if token.isalpha())
    info = json.loads((tmp_path / "explanation" / "input" / "info.json").read_text())
    assert info["targets"] == [row["target"] for row in info["rows"]]
    if found.kind == "text":
        assert all(target.startswith("logit(") for target in info["targets"])
    else:
        assert info["targets"] == info["explained"] == ["similarity of text and image"]
    assert all(float(x.abs().max()) > 0 for s, x in found["ours_abs"].items() if s not in ("target", "answer"))


def test_a_sentence_is_explained_as_from_python(home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path, "bart", "text=a red dog")
    adapter = hetexp.load_model(home / "bart")
    want = hetexp.explain_generated(adapter, adapter.prepare("a red dog"), ["ours_abs"])
    assert found.targets == want.targets
    assert torch.equal(found["ours_abs"]["text"], want["ours_abs"]["text"])
    assert found.token_texts["text"] == ["<s>", "a", "red", "dog", "</s>"]
    assert found.special_tokens["text"] == [0, 4]


def test_given_words_and_one_of_them(home: Path, tmp_path: Path) -> None:
    whole = run(home, tmp_path / "whole", "bart", "text=a red dog", "written=it is red")
    assert whole.targets == ["logit(<s>)", "logit(it)", "logit(is)", "logit(red)"][-len(whole.targets) :]
    one = run(home, tmp_path / "one", "bart", "text=a red dog", "written=it is red", "query=1")
    assert one.targets == whole.targets[1:2]
    assert torch.allclose(one["ours_abs"]["text"], whole["ours_abs"]["text"][1:2], atol=1e-7)
    with pytest.raises(InputError, match="query=9 does not exist"):
        run(home, tmp_path / "none", "bart", "text=a red dog", "written=it is red", "query=9")
    with pytest.raises(ConfigError, match="number of a written token"):
        run(home, tmp_path / "none", "bart", "text=a red dog", "query=dog")


def test_the_similarity_of_a_pair(home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path, "clip", *INPUTS["clip"])
    adapter = hetexp.load_model(home / "clip")
    with Image.open(home / "photo.png") as photo:
        inputs = adapter.prepare("a red dog", photo.convert("RGB"))
    want = hetexp.explain(adapter, inputs, ["ours_abs"], Logit(0, query=0))
    assert torch.equal(found["ours_abs"]["image"], want["ours_abs"]["image"])
    assert found["ours_abs"]["image"].shape == (1, 4, 4)
    assert found.image is not None
    assert found.image.size == (32, 32)  # resized and cropped, as the model sees it


def test_the_picture_is_the_one_that_the_model_sees(home: Path) -> None:
    adapter = hetexp.load_model(home / "blip")
    seen = np.asarray(seen_picture(adapter, adapter.prepare("what is it", PHOTO))).astype(int)
    resized = np.asarray(PHOTO.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(seen - resized).max() <= 1


def test_only_the_recording_is_kept_of_what_is_heard(home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path, "whisper", "audio=AUDIO")
    assert found.sound is not None
    spectrogram, seconds = found.sound
    assert seconds == 0.5
    assert spectrogram.shape == (5, 9)  # of 18 frames
    assert found["ours_abs"]["audio"].shape[1] in (4, 5)  # of 9
    wavfile.write(tmp_path / "long.wav", 16000, np.tile(SOUND, 3))
    with pytest.raises(InputError, match=r"lasts 1\.5 s"):
        run(home, tmp_path / "long", "whisper", f"audio={tmp_path / 'long.wav'}")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bart", [], r'needs text="two dogs"'),
        ("clip", ["text=a dog"], "needs image=photo.jpg"),
        ("clip", [*INPUTS["clip"], "audio=AUDIO"], "audio=.*nothing that clip can use"),
        ("clip", [*INPUTS["clip"], "written=dog"], "written=dog is nothing that clip can use"),
        ("bart", ["text=a dog", "image=IMAGE"], "image=.*nothing that bart can use"),
        ("bart", ["text=a dog", "question=what"], "question= is for models that answer"),
        ("blip", [*INPUTS["blip"], "text=a dog"], "give one of them"),
        ("bart", ["text=a dog", "answers=[dog]"], "answers=.*nothing that bart can use"),
        ("bart", ["text=a dog", "levels=true"], "levels=True is nothing"),
        ("bart", ["text=a dog", "target=difference"], "target=difference is nothing"),
        ("whisper", ["audio=nothing.wav"], "does not exist"),
    ],
)
def test_inputs_that_are_missing_or_useless(
    name: str, options: list[str], message: str, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(home, tmp_path, name, *options)
