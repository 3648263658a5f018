"""What `explain` returns: its rows, the items of a batch, masks, files, pictures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explained import METHODS, SIZES, photo, pictures, same
from matplotlib import pyplot as plt
from tiny import padded, picture, question

import hetexp
from hetexp import masks
from hetexp.errors import ConfigError, DataError, InputError
from hetexp.explanation import Explanation, Row, finite_maps
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.reporting.run_lengths import MaskFile
from hetexp.targets import AnyTarget, BoxSide, Difference, Logit, Ratio

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


def test_masks_by_another_strategy(detr: DetrAdapter, tmp_path: Path) -> None:
    found = hetexp.explain(detr, {"pixel_values": picture(64, 80)}, METHODS, Logit(0, 1))
    third = masks.get_strategy("quantile", {"share": 0.3})
    want = {
        method: masks.to_image(masks.binarise(streams["image"], third), (64, 80), (64, 80))
        for method, streams in found.items()
    }
    for method, got in found.masks(strategy=third).items():
        assert torch.equal(got, want[method])
        assert not torch.equal(got, found.masks(strategy="quantile")[method]), "the strategy with its own share"
        assert not torch.equal(got, found.masks()[method])
    found.save(tmp_path / "saved", [1.0], tie="foreground", strategy=third)
    info = json.loads((tmp_path / "saved" / "info.json").read_text())
    assert (info["strategy"], info["tie"]) == ("quantile(share=0.3)", "foreground")
    stored = MaskFile(tmp_path / "saved" / "masks.json")
    for method, got in found.masks(tie="foreground", strategy=third).items():
        assert np.array_equal(stored[f"{method}@1"].astype(bool), got.numpy())
        assert not torch.equal(got, want[method]), "the token at the threshold belongs to it"
    assert Explanation.load(tmp_path / "saved").details == found.details
    for call in (found.masks, lambda **options: found.save(tmp_path / "other", [1.0], **options)):
        with pytest.raises(InputError, match="best_f reads the masks of the objects"):
            call(strategy="best_f")
        with pytest.raises(ConfigError, match="unknown threshold strategy 'nope'"):
            call(strategy="nope")
    with pytest.raises(InputError, match=r"scale 0\.3 has no meaning"):
        found.masks(0.3, strategy=third)


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
