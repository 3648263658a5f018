"""Explanations on disk: saved, loaded, and refused where they are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explained import METHODS, photo, same
from safetensors.torch import load_file, save_file
from tiny import picture, question

import hetexp
from hetexp.errors import DataError
from hetexp.explanation import Explanation
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.reporting.run_lengths import MaskFile
from hetexp.targets import AnyTarget, BoxSide, Difference, Logit, Ratio


def read_back(found: Explanation, folder: Path, scales: tuple[float, ...] = ()) -> Explanation:
    assert found.save(folder, scales) == folder
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    return Explanation.load(folder)


@pytest.mark.parametrize("with_image", [False, True])
def test_detections_saved_and_loaded(detr: DetrAdapter, tmp_path: Path, with_image: bool) -> None:
    image = photo(100, 120) if with_image else None
    targets: list[AnyTarget] = [Logit(0, 1), BoxSide("left", 4)]
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, targets, image=image)
    got = read_back(found, tmp_path / "saved", (1.0, 0.3))
    same(got, {m: {s: x.float() for s, x in streams.items()} for m, streams in found.items()}, 0)
    assert got.rows == found.rows
    assert got.kind == found.kind
    assert got.provenance == found.provenance
    assert got.grids == found.grids
    assert got.extents == found.extents
    assert got.details == found.details
    if image is None:
        assert got.image is None
    else:
        assert got.image is not None
        assert np.array_equal(np.asarray(got.image), np.asarray(image))
    stored = MaskFile(tmp_path / "saved" / "masks.json")
    assert set(stored) == {f"{m}@{s}" for m in METHODS for s in ("1", "0.3")}
    for scale in (1.0, 0.3):
        for method, want in found.masks(scale).items():
            assert np.array_equal(stored[f"{method}@{scale:g}"].astype(bool), want.numpy()), method
            assert torch.equal(got.masks(scale)[method], want), method
    again = read_back(got, tmp_path / "saved")  # takes the other's place
    assert not (tmp_path / "saved" / "masks.json").exists()
    assert again.rows == found.rows


@pytest.mark.parametrize("with_image", [False, True])
def test_answers_saved_and_loaded(lxmert: LxmertAdapter, tmp_path: Path, with_image: bool) -> None:
    """Several targets of one answer keep apart, whatever they are called."""
    inputs = question(6, 5)
    targets: list[AnyTarget] = [Logit(), Logit(2), Logit(3), Ratio(0, 1), Logit(3)]
    found = replace(
        hetexp.explain(lxmert, inputs, METHODS, targets, image=photo(100, 120) if with_image else None),
        question="is it red?",
        words=["[CLS]", "is", "it", "red", "?", "[SEP]"],
        regions=inputs["visual_pos"][0].float(),
        answers=[{"answer": "yes", "logit": 1.5, "probability": 0.7}],
        details={"part": "questions"},
    )
    got = read_back(found, tmp_path / "saved")
    same(got, {m: {s: x.float() for s, x in streams.items()} for m, streams in found.items()}, 0)
    assert got.rows == found.rows
    for name in ("kind", "provenance", "grids", "extents", "question", "words", "answers", "details"):
        assert getattr(got, name) == getattr(found, name), name
    assert got.regions is not None
    assert torch.allclose(got.regions, inputs["visual_pos"][0].float(), atol=1e-6)
    assert (got.image is not None) == with_image


def test_names_of_rows_are_used_where_they_tell_them_apart(lxmert: LxmertAdapter) -> None:
    found = hetexp.explain(lxmert, question(6, 5), "gae", [Logit(0), Difference(0, 1)])
    found.rows[1] = replace(found.rows[1], name="difference")
    assert set(found.stored().relevance) == {f"{k}/{s}" for k in ("gae", "gae:difference") for s in ("text", "image")}


def test_nothing_known_but_relevance(lxmert: LxmertAdapter, tmp_path: Path) -> None:
    got = read_back(hetexp.explain(lxmert, question(6, 5), "gae"), tmp_path / "saved")
    assert (got.image, got.question, got.words, got.regions, got.answers) == (None, None, None, None, None)


def test_no_detection_saved_and_loaded(detr: DetrAdapter, tmp_path: Path) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, [])
    got = read_back(found, tmp_path / "saved", (1.0,))
    assert got.rows == []
    assert got["gae"]["image"].shape == (0, 4, 5)


def test_a_failed_save_leaves_what_was_there(
    detr: DetrAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, "gae", Logit(0, 1))
    found.save(tmp_path / "saved")

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("hetexp.explanation_files.save_file", full)
    with pytest.raises(DataError, match=r"cannot write .*saved \(no space left on device\): free some space"):
        found.save(tmp_path / "saved")
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    same(Explanation.load(tmp_path / "saved"), {"gae": {"image": found["gae"]["image"].float()}}, 0)


def test_damaged_folders_are_refused(lxmert: LxmertAdapter, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    found = replace(hetexp.explain(lxmert, question(6, 5), METHODS), image=photo(20, 30), regions=torch.rand(5, 4))

    def refused() -> None:
        with pytest.raises(DataError, match=r"holds no explanation, or a damaged one .*: save it again"):
            Explanation.load(folder)

    refused()
    for name in ("info.json", "relevance.safetensors", "image.png"):
        found.save(folder)
        content = (folder / name).read_bytes()
        for damaged in (content[: len(content) // 2], b"\xff" * 64, b"", b"[1]"):
            (folder / name).write_bytes(damaged)
            refused()
    for name in ("info.json", "relevance.safetensors"):
        found.save(folder)
        (folder / name).unlink()
        refused()
    found.save(folder)
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    for key in ("kind", "methods", "rows", "provenance"):
        (folder / "info.json").write_text(json.dumps({k: v for k, v in info.items() if k != key}), encoding="utf-8")
        refused()
    changes: list[dict[str, Any]] = [{"boxes": [[1, 2, 3]]}, {"boxes": "left"}, {"rows": 3}, {"rows": [{}]}]
    for change in (*changes, {"methods": ["lime"]}, {"methods": []}):
        (folder / "info.json").write_text(json.dumps(info | change), encoding="utf-8")
        refused()
    found.save(folder)
    stored = load_file(folder / "relevance.safetensors")
    save_file({k: v for k, v in stored.items() if k != "gae/text"}, folder / "relevance.safetensors")
    refused()
