"""task=explain: an image or a question of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from run_helpers import Compose

from hetexp.config import without_data
from hetexp.data.regions import Regions, write_compact
from hetexp.data.regions.features import RegionFeatures
from hetexp.errors import ConfigError, DataError, HetexpError, InputError
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.vqa import explain
from hetexp.reporting.figures.explanation import draw_explanation, row_text
from hetexp.reporting.samples import StoredExplanation

Explained = Callable[[DictConfig], StoredExplanation]


@pytest.fixture
def explained(tmp_path: Path) -> Explained:
    """Run task=explain and return what it wrote."""

    def run(cfg: DictConfig) -> StoredExplanation:
        folder = tmp_path / "explained"
        explain_own(open_session(cfg, folder))
        assert (folder / "explanation.png").stat().st_size > 5_000
        assert (folder / "explanation.pdf").read_bytes().startswith(b"%PDF")
        sample = StoredExplanation.read(folder / "explanation" / "input")
        assert sample.image is not None
        assert len(sample.relevance) * sample.image.size > 0  # read now: the next run writes to the same folder
        return sample

    return run


def picture(root: Path) -> str:
    return str(root / "images" / "001.png")


def test_every_kept_detection(
    toy_config: Compose, toy_scenes: Path, explained: Explained, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = explained(toy_config("task=explain", f"image={picture(toy_scenes)}"))
    scores = [d["score"] for d in sample.info["detections"]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.2
    assert sample.info["methods"] == ["gae", "odam", "ours_abs", "ours_pos", "ours_noised"]
    assert sample.relevance["gae"].shape[0] == len(scores)
    assert f"{scores[0]:.3f}" in capsys.readouterr().out


def test_one_class_and_one_query(toy_config: Compose, toy_scenes: Path, explained: Explained) -> None:
    base = ["task=explain", f"image={picture(toy_scenes)}", "methods=[ours_pos]"]
    sample = explained(toy_config(*base))
    first = sample.info["detections"][0]
    of_class = explained(toy_config(*base, f"query={first['label']}"))
    assert {d["label"] for d in of_class.info["detections"]} == {first["label"]}
    single = explained(toy_config(*base, f"query={first['query']}"))
    assert [d["query"] for d in single.info["detections"]] == [first["query"]]
    assert np.allclose(single.relevance["ours_pos"][0], sample.relevance["ours_pos"][0], rtol=1e-4, atol=1e-7)


def test_what_was_explained_is_said_everywhere(
    toy_config: Compose, toy_scenes: Path, explained: Explained, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another class than the query's own is explained: picture, print-out and info.json say so."""
    base = ["task=explain", f"image={picture(toy_scenes)}", "query=3", "methods=[ours_pos]"]
    own = explained(toy_config(*base))
    (label,) = (d["label"] for d in own.info["detections"])
    other = next(f"c{i}" for i in range(8) if f"c{i}" != label)
    assert row_text(own, 0) == f"{label} {own.info['detections'][0]['score']:.2f}"
    capsys.readouterr()
    for overrides, y in (
        ([f"answers=[{other}]"], f"logit({other})"),
        (["target=difference", f"answers=[{label},{other}]"], f"logit({label}) − logit({other})"),
    ):
        found = explained(toy_config(*base, *overrides))
        assert found.info["targets"] == [y] == [row["target"] for row in found.info["rows"]]
        assert row_text(found, 0).endswith(f", y = {y}")
        assert y in " ".join(capsys.readouterr().out.split())
        assert not np.allclose(found.relevance["ours_pos"], own.relevance["ours_pos"])


def test_difference_between_two_classes(toy_config: Compose, toy_scenes: Path, explained: Explained) -> None:
    base = ["task=explain", f"image={picture(toy_scenes)}", "query=3", "methods=[ours_full]"]
    ab = explained(toy_config(*base, "target=difference", "answers=[c1,c2]"))
    ba = explained(toy_config(*base, "target=difference", "answers=[c2,c1]"))
    assert ab.relevance["ours_full"].min() < 0
    assert not np.allclose(ab.relevance["ours_full"], ba.relevance["ours_full"])
    automatic = explained(toy_config(*base, "target=difference"))
    assert np.isfinite(automatic.relevance["ours_full"]).all()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], ConfigError, "needs an image"),
        (["image=nowhere.jpg"], ConfigError, "does not exist"),
        (["image=ANNOTATIONS"], DataError, "cannot be read as an image"),
        (["image=PICTURE", "query=c77"], ConfigError, "unknown class 'c77'; near it: c7"),
        (["image=PICTURE", "query=99"], InputError, "queries 0 to 11"),
        (["image=PICTURE", "query=c7", "model.score_threshold=0.9"], InputError, r"no c7 was detected with p > 0\.9"),
        (["image=PICTURE", "model.score_threshold=0.99"], InputError, "nothing was detected"),
        (["image=PICTURE", "target=difference", "answers=[c1]"], ConfigError, "must name two"),
        (["image=PICTURE", "target=difference", "answers=[c1,dog]"], ConfigError, "unknown class 'dog'"),
    ],
)
def test_errors(
    toy_config: Compose, toy_scenes: Path, tmp_path: Path, overrides: list[str], error: type[HetexpError], message: str
) -> None:
    places = {"PICTURE": picture(toy_scenes), "ANNOTATIONS": str(toy_scenes / "annotations.json")}
    for name, path in places.items():
        overrides = [o.replace(name, path) for o in overrides]
    with pytest.raises(error, match=message):
        explain_own(open_session(toy_config("task=explain", *overrides), tmp_path / "run"))


def test_a_question(
    toy_vqa_config: Compose, toy_vqa: Path, explained: Explained, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = toy_vqa_config("task=explain", f"image={picture(toy_vqa)}", "question=is there a zebra?")
    sample = explained(cfg)
    assert sample.info["question"] == "is there a zebra?"
    assert sample.relevance["ours_abs/image"].shape == (12,)
    assert "ours_full" not in sample.info["methods"]
    assert sample.info["answers"][0]["answer"] in capsys.readouterr().out


def test_a_difference_of_answers_adds_the_signed_method(
    toy_vqa_config: Compose, toy_vqa: Path, explained: Explained, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "question=is there a zebra and a dog"
    cfg = toy_vqa_config("task=explain", f"image={picture(toy_vqa)}", question, "target=difference", "answers=[a1,a2]")
    sample = explained(cfg)
    assert sample.info["contrast"] == ["a1", "a2"]
    y = "logit(a1) − logit(a2)"
    assert [row["target"] for row in sample.info["rows"]] == [y]
    assert f"explained: {y}" in capsys.readouterr().out
    assert f"y = {y}" in "\n".join(text.get_text() for text in draw_explanation(sample).texts)
    assert sample.relevance["ours_full/image"].min() < 0


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], ConfigError, "needs a question"),
        (["question=' '"], ConfigError, "needs a question"),
        (["question=zebra", "target=difference", "answers=[a1,a99]"], ConfigError, "unknown answer 'a99'; near it: a9"),
        (["question=zebra", "answers=[a1,a2]"], ConfigError, "must name one answer"),
        (["question=zebra", "data.regions=REGIONS"], InputError, "this checkpoint reads 24"),
    ],
)
def test_errors_of_questions(
    toy_vqa_config: Compose, toy_vqa: Path, tmp_path: Path, overrides: list[str], error: type[HetexpError], message: str
) -> None:
    narrow = Regions(np.zeros((3, 7), np.float32), np.array([[0, 0, 1, 1]] * 3, np.float32), 160, 120)
    write_compact(tmp_path / "narrow.safetensors", [("001", narrow)])
    overrides = [o.replace("REGIONS", str(tmp_path / "narrow.safetensors")) for o in overrides]
    cfg = toy_vqa_config("task=explain", f"image={picture(toy_vqa)}", *overrides)
    with pytest.raises(error, match=message):
        explain_own(open_session(cfg, tmp_path / "run"))


def test_no_data_set_is_needed(
    composed: Compose, toy_vqa_model: Path, toy_vqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract(image: Image.Image, model: object) -> RegionFeatures:
        return RegionFeatures(torch.rand(5, 24), torch.tensor([[0.1, 0.1, 0.9, 0.8]] * 5))

    monkeypatch.setattr(explain, "extract", extract)
    checkpoint = f"model.checkpoint={toy_vqa_model}"
    asked = [f"image={picture(toy_vqa)}", "question=is there a dog", f"paths.outputs={tmp_path}"]
    cfg = composed("profile=paper", "model=lxmert", "task=explain", checkpoint, *asked)
    explain_own(open_session(without_data(cfg), tmp_path / "run"))
    info = json.loads((tmp_path / "run" / "explanation" / "input" / "info.json").read_text())
    assert len(info["boxes"]) == 5
    cfg = composed("profile=paper", "model=lxmert", "task=explain", checkpoint, *asked, "answers=[yes]")
    with pytest.raises(ConfigError, match="no answer list"):
        explain_own(open_session(without_data(cfg), tmp_path / "again"))


def test_yes_and_no_are_words_not_truth_values(toy_config: Compose) -> None:
    cfg = toy_config("answers=[yes,no]")
    assert [explain.as_word(a) for a in cfg.answers] == ["yes", "no"]


def test_an_image_in_any_mode(toy_config: Compose, tmp_path: Path, explained: Explained) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140), dtype=np.uint8)).save(path)
    sample = explained(toy_config("task=explain", f"image={path}", "query=0"))
    assert sample.ground.shape == (90, 140, 3)


def test_a_question_of_unknown_words_is_warned_of(
    toy_vqa_config: Compose, toy_vqa: Path, explained: Explained, caplog: pytest.LogCaptureFixture
) -> None:
    for question, warned in (("is there a zebra?", False), ("qwertz uiop", True)):
        caplog.clear()
        explained(toy_vqa_config("task=explain", f"image={picture(toy_vqa)}", f"question={question}", "methods=[gae]"))
        assert caplog.text.count("no word of question 'qwertz uiop' is in this model's vocabulary") == warned
