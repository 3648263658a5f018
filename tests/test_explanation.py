"""What `explain` returns: its rows, the items of a batch, masks, files, pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import distance
from matplotlib import pyplot as plt
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import padded, picture, question, tiny_detr, tiny_lxmert
from torch import Tensor

import hetexp
from hetexp import masks
from hetexp.errors import DataError, InputError
from hetexp.explanation import Explanation, Row, finite_maps
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.reporting.run_lengths import MaskFile
from hetexp.targets import AnyTarget, BoxSide, Difference, Logit, Ratio

METHODS = ["gae", "ours_abs", "ours_full"]
SIZES = [(64, 80), (48, 64)]


def photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def detr() -> DetrAdapter:
    return DetrAdapter(tiny_detr(11, heads=4), score_threshold=0.0)


@pytest.fixture(scope="module")
def lxmert() -> LxmertAdapter:
    return LxmertAdapter(tiny_lxmert(12, heads=4), answers=["yes", "no", "red", "blue", "one", "two"])


def pictures() -> dict[str, Tensor]:
    """Two pictures of different sizes as one padded batch."""
    height, width = (max(sides) for sides in zip(*SIZES, strict=True))
    pixels = torch.zeros(2, 3, height, width, dtype=torch.float64)
    mask = torch.zeros(2, height, width, dtype=torch.long)
    for row, (h, w) in enumerate(SIZES):
        pixels[row, :, :h, :w] = picture(h, w, seed=row)[0]
        mask[row, :h, :w] = 1
    return {"pixel_values": pixels, "pixel_mask": mask}


def same(got: Mapping[str, Mapping[str, Tensor]], want: Mapping[str, Mapping[str, Tensor]], bound: float) -> None:
    assert list(got) == list(want)
    for method, streams in want.items():
        assert set(got[method]) == set(streams)
        for source, relevance in streams.items():
            assert distance(got[method][source], relevance) <= bound, (method, source)


# -- rows ------------------------------------------------------------------------------------------------------


def test_rows_of_a_detector(detr: DetrAdapter) -> None:
    inputs = {"pixel_values": picture(64, 80)}
    found = hetexp.explain(
        detr, inputs, METHODS, [Logit(query=4), Difference("LABEL_1", 2, query=1), BoxSide("top", 4)]
    )
    (seen,) = detr.detect(inputs)
    first, second = detr.labels[int(seen.labels[4])], detr.labels[int(seen.labels[1])]
    assert found.kind == "detection"
    assert found.queries == [4, 1, 4]
    assert found.labels == [first, second, first]
    assert found.targets == [f"logit({first})", "logit(LABEL_1) − logit(LABEL_2)", "top side of the box"]
    assert torch.allclose(found.scores.double(), seen.scores[[4, 1, 4]], atol=1e-6)
    centre, half = seen.boxes[[4, 1, 4], :2], seen.boxes[[4, 1, 4], 2:] / 2
    assert found.boxes is not None
    assert torch.allclose(found.boxes.double(), torch.cat([centre - half, centre + half], 1).clamp(0, 1), atol=1e-6)
    assert found.tokens("gae", "image").shape == (3, 20)
    assert torch.equal(found.tokens("gae", "image")[1], found["gae"]["image"][1].flatten())
    assert repr(found).startswith(f"Explanation(detection: 3 targets ({first} ")
    assert "methods gae, ours_abs, ours_full" in repr(found)


def test_rows_of_an_answerer(lxmert: LxmertAdapter) -> None:
    inputs = question(6, 5)
    logits = lxmert.predict(inputs)[0]
    best = int(logits.argmax())
    found = hetexp.explain(lxmert, inputs, METHODS, [Logit(), "no", Ratio("red", "no")])
    answer = lxmert.labels[best]
    assert found.kind == "vqa"
    assert found.queries == [None] * 3
    assert found.boxes is None
    assert found.labels == [answer] * 3
    assert found.targets == [f"logit({answer})", "logit(no)", "logit(red) / logit(no)"]
    assert torch.allclose(found.scores.double(), logits.softmax(-1)[best].expand(3), atol=1e-6)
    assert found.tokens("gae", "text").shape == (3, 6)


def test_provenance_is_plain(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, ["ours_noised", "odam"], 1)
    told = found.provenance
    assert json.loads(json.dumps(told)) == told
    assert told["model"] == "detr"
    assert told["dtype"] == "float64"
    assert told["methods"]["ours_noised"] == {"class": "Ours"} | hetexp.METHODS["ours_noised"].accepted()
    assert told["methods"]["ours_noised"].items() >= {"correction": "pos", "noise_link": "row", "y_unit": 1.0}.items()
    assert told["methods"]["odam"] == {"class": "Odam", "feature": "default"}
    assert set(told["versions"]) == {"hetexp", "torch", "transformers"}


# -- items of a batch ------------------------------------------------------------------------------------------


def test_items_of_a_padded_batch_of_pictures(detr: DetrAdapter) -> None:
    """Each item is what explaining its picture alone gives: rows, maps and masks."""
    batch = pictures()
    targets = [[Logit(0, 1), Logit(2, 4)], [Logit(1, 3)]]
    together = hetexp.explain(detr, batch, METHODS, targets)
    assert [row.item for row in together.rows] == [0, 0, 1]
    assert together["gae"]["image"].shape == (3, 4, 5)
    assert bool((together["gae"]["image"][2, 3:] == 0).all())
    for number, (height, width) in enumerate(SIZES):
        pixels = {"pixel_values": batch["pixel_values"][number : number + 1, :, :height, :width]}
        alone = hetexp.explain(detr, pixels, METHODS, targets[number])
        item = together.item(number)
        same(item, alone, 1e-9)
        assert [(r.target, r.label, r.query, r.item) for r in item.rows] == [
            (r.target, r.label, r.query, r.item) for r in alone.rows
        ]
        assert item.grids == alone.grids
        assert item.extents == alone.extents == [(height, width)]
        for scale in (1.0, 0.3):
            want = alone.masks(scale)
            for method, got in item.masks(scale).items():
                assert got.shape == (len(targets[number]), height, width)
                assert torch.equal(got, want[method]), method


def test_items_of_a_padded_batch_of_questions(lxmert: LxmertAdapter) -> None:
    questions = [question(7, 4, seed=1), question(5, 9, seed=2)]
    targets: list[list[AnyTarget]] = [[Logit(1)], [Logit(), Difference("yes", "no")]]
    together = hetexp.explain(lxmert, padded(questions), METHODS, targets)
    assert together["gae"]["text"].shape == (3, 7)
    assert together["gae"]["image"].shape == (3, 9)
    for number, inputs in enumerate(questions):
        item = together.item(number)
        alone = hetexp.explain(lxmert, inputs, METHODS, targets[number])
        same(item, alone, 1e-9)
        assert item.targets == alone.targets
        assert item.grids == alone.grids
    with pytest.raises(InputError, match="image tokens are regions"):
        together.item(0).masks()


def test_an_item_without_rows(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, pictures(), METHODS, [[], [Logit(0, 1)]])
    empty = found.item(0)
    assert empty.rows == []
    assert empty["gae"]["image"].shape == (0, 4, 5)
    assert empty.masks()["gae"].shape == (0, 64, 80)
    assert empty.boxes is not None
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize("number", [-1, 2])
def test_items_that_do_not_exist(detr: DetrAdapter, number: int) -> None:
    found = hetexp.explain(detr, pictures(), "gae", Logit(0, 1))
    with pytest.raises(InputError, match=f"item {number} does not exist: this explanation has inputs 0 to 1"):
        found.item(number)


@pytest.mark.parametrize("kind", ["detection", "vqa"])
def test_what_needs_one_input_refuses_several(
    detr: DetrAdapter, lxmert: LxmertAdapter, kind: str, tmp_path: Path
) -> None:
    found = hetexp.explain(detr, pictures(), "gae", Logit(0, 1))
    if kind == "vqa":
        found = hetexp.explain(lxmert, padded([question(7, 4), question(5, 9)]), "gae", Logit(1))
    for call in (found.masks, found.stored, found.plot, lambda: found.save(tmp_path / "saved")):
        with pytest.raises(InputError, match=r"holds 2 inputs: take one of them, explanation.item\(0\)"):
            call()
    assert list(tmp_path.iterdir()) == []
    assert "<img" not in found._repr_html_()


# -- masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsample", ["reference", "bilinear", "nearest"])
def test_masks_are_otsus(detr: DetrAdapter, upsample: str) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, Logit(0, 1))
    for method, got in found.masks(0.3, upsample=upsample).items():
        assert got.dtype == torch.bool
        assert got.shape == (1, 64, 80)
        assert bool(got.any()), method
        if upsample == "reference":
            small = masks.otsu(found[method]["image"], 0.3)
            assert torch.equal(got, masks.to_image(small, (64, 80), (64, 80)))
    assert found.masks(1.0, (32, 40))["gae"].shape == (1, 32, 40)
    assert replace(found, image=photo(100, 120)).masks()["gae"].shape == (1, 100, 120)


def test_a_single_padded_input_is_masked_without_its_padding(detr: DetrAdapter) -> None:
    pixels, mask = torch.zeros(1, 3, 96, 96, dtype=torch.float64), torch.zeros(1, 96, 96)
    pixels[:, :, :64, :80], mask[:, :64, :80] = picture(64, 80), 1
    wide = hetexp.explain(detr, {"pixel_values": pixels, "pixel_mask": mask}, METHODS, Logit(0, 1))
    want = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, Logit(0, 1))
    assert wide["gae"]["image"].shape == (1, 6, 6)
    for scale in (1.0, 0.3):
        for method, got in wide.masks(scale).items():
            assert torch.equal(got, want.masks(scale)[method]), method
    for method, relevance in wide.stored().relevance.items():
        assert relevance.shape == (1, 4, 5), method


def test_maps_that_are_not_finite_give_empty_masks(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, "gae", [Logit(0, 1), Logit(0, 2)])
    found.relevance["gae"]["image"][0, 1, 1] = math.nan
    first, second = found.masks()["gae"]
    assert not bool(first.any())
    assert bool(second.any())
    assert finite_maps(found["gae"]["image"])[1] == 1


# -- files -----------------------------------------------------------------------------------------------------


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


# -- on screen -------------------------------------------------------------------------------------------------


def axes_with_pictures(found: Explanation) -> int:
    figure = found.plot()
    figure.canvas.draw()
    count = sum(bool(ax.images) for ax in figure.axes)
    plt.close(figure)
    return count


def test_detections_are_drawn(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, [Logit(0, 1), BoxSide("left", 4)])
    assert axes_with_pictures(found) == 2 * len(METHODS)
    with_image = replace(found, image=photo(100, 120))
    assert axes_with_pictures(with_image) == 2 * (len(METHODS) + 1)  # the input besides
    shown = with_image._repr_html_()
    assert shown.count("<tr>") == 3
    assert 'src="data:image/png;base64,' in shown
    assert "left side of the box" in shown


def test_answers_are_drawn(lxmert: LxmertAdapter) -> None:
    inputs = question(6, 5)
    bare = hetexp.explain(lxmert, inputs, METHODS, [Logit(2), Difference(2, 3)])
    with pytest.raises(DataError, match="no boxes of its regions"):
        bare.plot()
    assert "<img" not in bare._repr_html_()
    found = replace(
        bare,
        image=photo(100, 120),
        question="is it <red>?",
        words=["[CLS]", "is", "it", "red", "?", "[SEP]"],
        regions=inputs["visual_pos"][0].float(),
    )
    assert axes_with_pictures(found) >= len(METHODS)
    assert "<img" in found._repr_html_()
    assert "<img" in replace(found, image=None, words=None)._repr_html_()


def test_an_item_of_a_batch_is_drawn(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, pictures(), "gae", Logit(0, 1))
    assert axes_with_pictures(found.item(1)) == 1


def test_nothing_to_draw(detr: DetrAdapter) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, [])
    with pytest.raises(InputError, match="nothing was explained, so nothing can be drawn: name a query, or lower"):
        found.plot()
    assert "<img" not in found._repr_html_()


def test_what_a_notebook_shows_is_escaped() -> None:
    row = Row("logit(<b>)", "<b>", 0.5)
    shown = Explanation({}, [row], "vqa", grids=[{}, {}])._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
