"""task=samples: what is stored of the chosen items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from run_helpers import Compose
from safetensors.torch import load_file

from hetexp.data.vqa import read_questions
from hetexp.errors import DataError
from hetexp.evaluation.masks import otsu, to_image
from hetexp.experiments.detection import explain as of_images
from hetexp.experiments.detection.ground_truth import size_of
from hetexp.experiments.detection.sampled_objects import DetectedObjects
from hetexp.experiments.engine.samples import chosen_items, write_explanations
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import make_samples
from hetexp.experiments.vqa.explain import contrast, find_image
from hetexp.explanation_files import MaskSettings
from hetexp.reporting.products import make_figures
from hetexp.reporting.run_lengths import decode_masks
from hetexp.reporting.samples import read_samples

PAPER = ["gae", "odam", "ours_abs", "ours_pos", "ours_noised"]


def test_detections_are_stored_with_masks(toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("task=samples", "limit=2")
    make_samples(open_session(cfg, tmp_path / "run"))
    found = read_samples(Path(cfg.paths.outputs), "detection")
    assert [s.info["item"] for s in found.samples] == [0, 1]
    assert found.about["data"] == "coco"
    assert found.about["checkpoint"].startswith("tiny@")
    sample = found.samples[0]
    k = len(sample.info["detections"])
    assert 1 <= k <= of_images.MOST_SAMPLED
    assert sample.info["methods"][:5] == PAPER
    centres = [d["box"][0] + d["box"][2] for d in sample.info["detections"]]
    assert centres == sorted(centres)
    height, width = sample.ground.shape[:2]
    for detection in sample.info["detections"]:
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
    relevance = torch.from_numpy(sample.relevance["ours_abs"])
    expected = to_image(otsu(relevance, 0.3), sample.info["input_size"], (height, width)).numpy()
    assert np.array_equal(sample.masks["ours_abs@0.3"], expected)
    assert len(sample.info["otsu"]["gae"]) == k


def test_chosen_ids_and_missing_ones(toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(toy_config("task=samples"), tmp_path / "run")
    monkeypatch.setattr(of_images, "chosen_items", lambda data: {"detection": [4, 2]})
    assert list(of_images.samples(session)) == ["4", "2"]
    session.cfg.limit = 1
    assert list(of_images.samples(session)) == ["4"], "limit counts samples, not images of the data"
    monkeypatch.setattr(of_images, "chosen_items", lambda data: {"detection": [4, 99]})
    with pytest.raises(DataError, match=r"\[99\] are not among"):
        of_images.samples(session)


def test_the_object_behind_a_detection_is_stored(toy_config: Compose, tmp_path: Path) -> None:
    session = open_session(toy_config("task=samples"), tmp_path / "run")
    item, coco = session.data.items[0], session.data.coco
    owner = next(a for a in coco.imgToAnns[item.image_id] if not a.get("iscrowd", 0))
    x, y, w, h = owner["bbox"]
    name = coco.cats[owner["category_id"]]["name"]
    found = of_images.Row(
        "", name, 0.9, 0, (x / item.width, y / item.height, (x + w) / item.width, (y + h) / item.height)
    )
    objects = DetectedObjects(session.data, session.adapter.labels, None)
    behind = objects.behind(item, found)
    assert behind["correct"] is True
    assert behind["size"] == size_of(owner["area"])
    assert np.array_equal(decode_masks([behind["mask"]], "here")[0], coco.annToMask(owner))
    nowhere = replace(found, box=(0.0, 0.0, 1 / item.width, 1 / item.height))
    assert objects.behind(item, nowhere) == {"correct": False, "size": "small"}
    categories = {a["category_id"] for a in coco.imgToAnns[item.image_id]}
    labels = session.adapter.labels.values()
    stranger = next(c["name"] for c in coco.cats.values() if c["id"] not in categories and c["name"] in labels)
    assert objects.behind(item, replace(found, label=stranger))["correct"] is False


def test_further_images_are_for_the_gallery_alone(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy_config("task=samples")
    monkeypatch.setattr(of_images, "chosen_items", lambda data: {"detection": [4], "gallery": [4, 2, 1]})
    make_samples(open_session(cfg, tmp_path / "run"))
    found = read_samples(Path(cfg.paths.outputs), "detection")
    assert [s.info["item"] for s in found.samples] == [4], "figures show the chosen ones"
    assert [s.info["item"] for s in found.further] == [2, 1]
    assert all(len(s.info["objects"]) == len(s.info["detections"]) for s in [*found.samples, *found.further])
    monkeypatch.setattr(of_images, "chosen_items", lambda data: {"detection": [4], "gallery": [99]})
    with pytest.raises(DataError, match=r"\[99\] are not among"):
        of_images.samples(open_session(cfg, tmp_path / "run"))


def test_methods_of_ones_choice_are_shown(toy_config: Compose, tmp_path: Path) -> None:
    """Figures show whatever the samples were made with, ODAM or no ODAM, and a method named by itself besides."""
    cfg = toy_config("task=samples", "limit=1", "methods=[gae,ours_abs,rollout]")
    make_samples(open_session(cfg, tmp_path / "three"))
    found = read_samples(Path(cfg.paths.outputs), "detection")
    assert found.shown == ["gae", "ours_abs", "rollout"]
    assert found.absent == ["odam", "ours_pos", "ours_noised"]
    for made in make_figures(Path(cfg.paths.outputs), ["figure2", "figure3", "figure4"]):
        assert all(path.stat().st_size > 5_000 for path in made.paths)
    make_samples(open_session(toy_config("task=samples", "limit=1", "method=rollout"), tmp_path / "one more"))
    found = read_samples(Path(cfg.paths.outputs), "detection")
    assert found.shown == [*PAPER, "rollout"]
    assert not found.absent


def test_nothing_detected(toy_config: Compose, tmp_path: Path) -> None:
    session = open_session(toy_config("task=samples", "model.score_threshold=0.99"), tmp_path / "run")
    with pytest.raises(DataError, match=r"lower model\.score_threshold"):
        make_samples(session)
    assert not (Path(session.cfg.paths.outputs) / "samples").exists()


def test_questions_are_stored_for_both_targets(toy_vqa_config: Compose, tmp_path: Path) -> None:
    cfg = toy_vqa_config("task=samples", "limit=2", "data.name=toy")
    make_samples(open_session(cfg, tmp_path / "run"))
    found = read_samples(Path(cfg.paths.outputs), "vqa")
    assert [len(found.part(part)) for part in ("questions", "logic")] == [2, 2]
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
    asked = {(q.img_id, q.sent): q.label for q in read_questions(Path(cfg.data.root, cfg.data.questions))}
    assert sample.info["accepted"] == asked[sample.info["item"], sample.info["question"]]


def test_contrast_prefers_the_opposite_answer() -> None:
    class Adapter:
        answers = ("red", "yes", "blue", "no")
        labels = MappingProxyType(dict(enumerate(answers)))

    assert contrast(Adapter(), [1, 2, 3, 0]) == 3  # type: ignore[arg-type]
    assert contrast(Adapter(), [3, 0, 1, 2]) == 1  # type: ignore[arg-type]
    assert contrast(Adapter(), [0, 2, 1, 3]) == 2  # type: ignore[arg-type]


def test_listed_items_are_sound() -> None:
    assert chosen_items("coco_val2017")["detection"] == [39769, 216516, 359937, 192191]
    assert len(chosen_items("vqa_v2")["questions"]) == 4
    assert chosen_items("something else") == {}
    for data in ("scene_questions", "vqa_v2"):
        chosen = chosen_items(data)
        assert all(set(e) == {"image", "question"} for part in chosen.values() for e in part)


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.images"):
        find_image(tmp_path, "000001")


def test_rewriting_keeps_the_old_samples_when_it_fails(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy_config("task=samples", "limit=1")
    session = open_session(cfg, tmp_path / "run")
    make_samples(session)
    folder = Path(cfg.paths.outputs) / "samples" / "detection"
    before = {p.name: p.read_bytes() for p in (folder / "0").iterdir()}
    explained = of_images.samples(session)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("hetexp.explanation_files.save_file", full)
    with pytest.raises(DataError, match="no space left"):
        write_explanations(folder, explained, {}, MaskSettings([1.0]))
    assert {p.name: p.read_bytes() for p in (folder / "0").iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["detection"]
    assert load_file(folder / "0" / "relevance.safetensors")
    assert json.loads((folder / "index.json").read_text())["items"] == ["0"]
