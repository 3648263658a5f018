from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hetexp.errors import DataError
from hetexp.evaluation.masks import otsu, to_image
from hetexp.experiments import samples
from hetexp.experiments.explanations import replace_folder
from hetexp.experiments.session import session_for
from hetexp.reporting.samples import read_samples

PAPER = ["gae", "odam", "ours_abs", "ours_pos", "ours_noised"]


def test_detections_are_stored_with_masks(toy_config, tmp_path):
    cfg = toy_config("task=samples", "limit=2")
    samples.run(session_for(cfg, tmp_path / "run"))
    found = read_samples(Path(cfg.paths.outputs), "detr")
    assert [s.info["item"] for s in found.samples] == [0, 1]
    assert found.about["data"] == "coco"
    assert found.about["checkpoint"].startswith("tiny@")
    sample = found.samples[0]
    k = len(sample.info["detections"])
    assert 1 <= k <= samples.MOST
    assert sample.info["methods"][:5] == PAPER
    centres = [d["box"][0] + d["box"][2] for d in sample.info["detections"]]
    assert centres == sorted(centres)
    height, width = sample.image.shape[:2]
    for detection in sample.info["detections"]:
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
    relevance = torch.from_numpy(sample.relevance["ours_abs"])
    expected = to_image(otsu(relevance, 0.3), sample.info["input_size"], (height, width)).numpy()
    assert np.array_equal(sample.masks["ours_abs@0.3"], expected)
    assert len(sample.info["otsu"]["gae"]) == k


def test_chosen_ids_and_missing_ones(toy_config, tmp_path, monkeypatch):
    session = session_for(toy_config("task=samples"), tmp_path / "run")
    monkeypatch.setattr(samples, "listed", lambda data: {"detr": [4, 2]})
    assert list(samples.detr_samples(session)) == ["4", "2"]
    monkeypatch.setattr(samples, "listed", lambda data: {"detr": [4, 99]})
    with pytest.raises(DataError, match=r"\[99\] are not in"):
        samples.detr_samples(session)


def test_nothing_detected(toy_config, tmp_path):
    session = session_for(toy_config("task=samples", "model.keep=0.99"), tmp_path / "run")
    with pytest.raises(DataError, match=r"lower model\.keep"):
        samples.run(session)
    assert not (Path(session.cfg.paths.outputs) / "samples").exists()


def test_questions_are_stored_for_both_targets(toy_vqa_config, tmp_path):
    cfg = toy_vqa_config("task=samples", "limit=2", "data.name=toy")
    samples.run(session_for(cfg, tmp_path / "run"))
    found = read_samples(Path(cfg.paths.outputs), "lxmert")
    sample = found.part("questions")[0]
    assert sample.info["tokens"][0] == "[CLS]"
    assert sample.info["contrast"][0] == sample.info["answers"][0]["answer"] != sample.info["contrast"][1]
    assert {f"{m}/{s}" for m in PAPER for s in ("text", "image")} <= set(sample.relevance)
    assert sample.relevance["gae/text"].shape == (len(sample.info["tokens"]),)
    assert sample.relevance["gae/image"].shape == (len(sample.info["boxes"]),)
    assert sample.relevance["gae/text"][0] == 0
    signed, difference = sample.relevance["ours_full/image"], sample.relevance["ours_full:difference/image"]
    assert not np.allclose(signed, difference)
    assert {"yes", "no"}.isdisjoint(sample.info["contrast"])  # the toy's answers
    assert np.array(sample.info["boxes"]).max() > 1  # pixels


def test_contrast_prefers_the_opposite_answer():
    class Adapter:
        answers = ("red", "yes", "blue", "no")

    assert samples.contrast(Adapter(), [1, 2, 3, 0]) == 3  # type: ignore[arg-type]
    assert samples.contrast(Adapter(), [3, 0, 1, 2]) == 1  # type: ignore[arg-type]
    assert samples.contrast(Adapter(), [0, 2, 1, 3]) == 2  # type: ignore[arg-type]


def test_listed_items_are_sound():
    assert samples.listed("coco_val2017")["detr"] == [39769, 216516, 359937, 192191]
    assert len(samples.listed("vqa_v2")["questions"]) == 4
    assert samples.listed("something else") == {}
    for data in ("scene_questions", "vqa_v2"):
        chosen = samples.listed(data)
        assert all(set(e) == {"image", "question"} for part in chosen.values() for e in part)


def test_an_image_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"set data\.images"):
        samples.find_image(tmp_path, "000001")


def test_rewriting_keeps_the_old_samples_when_it_fails(toy_config, tmp_path, monkeypatch):
    cfg = toy_config("task=samples", "limit=1")
    session = session_for(cfg, tmp_path / "run")
    samples.run(session)
    folder = Path(cfg.paths.outputs) / "samples" / "detr"
    before = {p.name: p.read_bytes() for p in (folder / "0").iterdir()}
    explained = samples.detr_samples(session)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("hetexp.experiments.explanations.save_file", full)
    with pytest.raises(DataError, match="no space left"):
        replace_folder(folder, explained, {})
    assert {p.name: p.read_bytes() for p in (folder / "0").iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["detr"]
    assert load_file(folder / "0" / "relevance.safetensors")
    assert json.loads((folder / "index.json").read_text())["items"] == ["0"]
