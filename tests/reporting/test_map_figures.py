"""Figures 2, 3, 4, 7 and 8: what stands in a cell, against numbers known by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.errors import ConfigCompositionException
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.patches import FancyBboxPatch
from report_helpers import box_mask, write_samples

from hetexp.config import composed
from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.ground_truth import Surroundings, map_measures
from hetexp.reporting.contrast import Contrast
from hetexp.reporting.figures import detections, maps, marks, questions
from hetexp.reporting.figures.scales import CONSTANT, NEAR_ZERO, NOT_FINITE, Scale, own_scale, scales_of
from hetexp.reporting.products import make_figures
from hetexp.reporting.samples import StoredExplanation, read_samples

LEFT_HALF = box_mask((0, 0), (48, 30))
TOP_HALF = box_mask((0, 0), (24, 60))
IMAGE = np.full((48, 60, 3), 128, np.uint8)
REGIONS = [[0, 0, 30, 48], [30, 0, 60, 48]]  # left and right half


def detected(relevance: dict[str, Any], objects: Sequence[Any], masks: dict[str, Any] | None = None) -> Any:
    """A sample with maps [k, 2, 2] of methods."""
    count = len(objects)
    info = {
        "kind": "detection",
        "item": 1,
        "methods": list(relevance),
        "detections": [{"label": "zebra", "score": 0.95, "box": [5, 6, 30, 40]}] * count,
        "objects": [
            {"correct": False, "size": "small"} if o is None else {"correct": True, "mask": o} for o in objects
        ],
    }
    return StoredExplanation(IMAGE, info, {m: np.array(r, np.float32) for m, r in relevance.items()}, masks)


def asked(item: str, objects: Any, relevance: dict[str, Any]) -> StoredExplanation:
    """A question whose two regions are the halves of its picture."""
    info = {
        "kind": "vqa",
        "item": item,
        "question": "is there a zebra?",
        "tokens": ["[CLS]", "zebra", "[SEP]"],
        "answers": [{"answer": "yes", "probability": 0.9}],
        "contrast": ["yes", "no"],
        "boxes": REGIONS,
        "methods": ["ours_full", "homologous"],
        "objects": objects,
    }
    streams = {f"{k}/{s}": np.array(r, np.float32) for k, of in relevance.items() for s, r in of.items()}
    return StoredExplanation(IMAGE, info, streams)


def logic(logit: float, difference: float, item: str = "1") -> StoredExplanation:
    """Figure 8's question, relevance of these sizes: three quarters positive left, the rest right, negative left."""
    return asked(
        item,
        [{"name": "zebra", "named": True, "mask": LEFT_HALF}, {"name": "dog", "named": False, "mask": TOP_HALF}],
        {
            key: {"image": np.array([size, -size / 3]), "text": [0, size, -size]}
            for key, size in (("ours_full", logit), ("ours_full:difference", difference))
        },
    )


def notes(figure: plt.Figure) -> list[str]:
    """What is written inside pictures."""
    return [text.get_text() for ax in figure.axes if ax.images for text in ax.texts]


def pictures(figure: plt.Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.images]


def bars(figure: plt.Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_ylabel().startswith("relevance")]


def contours(ax: Axes) -> list[ContourSet]:
    return [found for found in ax.collections if isinstance(found, ContourSet)]


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    plt.close("all")


def test_scales() -> None:
    small, large = np.array([0.1, 0.3]), np.array([0.0, 1.0])
    own = scales_of([small, large], signed=False)
    assert own == [Scale(0.1, 0.3), Scale(0.0, 1.0)]
    shared = scales_of([small, large], signed=False, contrast=Contrast.shared)
    assert shared == [Scale(0.0, 1.0)] * 2
    assert Scale(0.1, 0.3).unit(np.array([0.0, 0.2, 0.3])).tolist() == pytest.approx([0, 0.5, 1])
    (log,) = scales_of([np.array([0.0, 2.0])], signed=False, contrast=Contrast.log)
    assert isinstance(log, Scale)
    assert log.unit(np.array([2, 0.2, 0.02, 0.002, 1e-9, 0, -1])).tolist() == pytest.approx(
        [1, 2 / 3, 1 / 3, 0, 0, 0, 0]
    )
    signed = own_scale(np.array([-2.0, 1.0]), signed=True)
    assert isinstance(signed, Scale)
    assert signed.unit(np.array([-2, -1, 0, 2])).tolist() == [-1, -0.5, 0, 1]
    both = Scale(-2, 2, signed=True, log=True).unit(np.array([-2, -0.2, 0, 0.02]))
    assert both.tolist() == pytest.approx([-1, -2 / 3, 0, 1 / 3])
    together = scales_of([np.array([-2.0]), np.array([1.0])], signed=True, together=True)
    assert together == [Scale(-2.0, 2.0, signed=True)] * 2


@pytest.mark.parametrize("contrast", list(Contrast))
def test_what_is_not_stretched(contrast: Contrast) -> None:
    full, faint, flat = np.array([0.0, 1.0]), np.array([0.0, 0.009]), np.array([0.5, 0.5])
    found = scales_of([full, faint, flat, np.array([np.nan, 1.0])], signed=False, contrast=contrast)
    assert isinstance(found[0], Scale)
    assert found[1:] == [NEAR_ZERO, CONSTANT, NOT_FINITE]
    assert isinstance(scales_of([full, np.array([0.0, 0.011])], False, contrast)[1], Scale)
    assert scales_of([np.zeros(3), np.zeros(3)], False, contrast) == [NEAR_ZERO] * 2
    assert scales_of([np.zeros(3)], True, contrast) == [NEAR_ZERO]
    assert scales_of([np.array([-1.0, -0.5])], signed=False, contrast=Contrast.log) == [NEAR_ZERO]


def test_a_cell_says_how_much_relevance_is_inside_the_object() -> None:
    relevance = [[[3, 1], [0, -8]]]
    sample = detected({"gae": relevance, "ours_pos": [[[0, 1], [0, 0]]]}, [LEFT_HALF])
    figure = detections.draw_relevance([sample], ["gae", "ours_pos"])
    assert notes(figure) == ["75 %", "0 %"]
    around = Surroundings.of(sample.objects[0].mask, np.zeros((48, 60), bool), np.zeros((48, 60), bool))
    measured = map_measures(np.array(relevance[0], float), around)["relevance_mass_accuracy"]
    assert marks.share_inside(np.array(relevance[0]), sample.objects[0].mask) == measured == 0.75
    assert marks.share_inside(np.array([3.0, 1.0]), sample.objects[0].mask, np.array(REGIONS)) == 0.75


def test_objects_are_outlined_white_over_black() -> None:
    sample = detected({"gae": [[[3, 1], [0, 0]], [[3, 1], [0, 0]]]}, [LEFT_HALF, None])
    figure = detections.draw_relevance([sample], ["gae"])
    with_object, without = pictures(figure)[:2], pictures(figure)[2:]
    for ax in with_object:  # input and map
        black, white = contours(ax)
        assert np.asarray(black.get_edgecolor()).tolist() == [[0, 0, 0, 1]]
        assert np.asarray(white.get_edgecolor()).tolist() == [[1, 1, 1, 1]]
        assert np.max(black.get_linewidth()) > np.max(white.get_linewidth()) > 0
        (path,) = white.get_paths()
        assert path.get_extents().bounds == (-0.5, -0.5, 30, 48)
        assert ax.get_xlim() == (-0.5, 59.5)
        assert ax.get_ylim() == (47.5, -0.5)
    assert not [found for ax in without for found in (*contours(ax), *ax.texts)], "there is no object"


def test_specks_are_not_outlined() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:60, 10:60] = True
    mask[20:25, 20:25] = False  # a hole of 25 pixels, under 0.5 % of the image
    mask[40:50, 40:50] = False  # one of 100
    mask[80:85, 80:85] = True  # a piece of 1 % of the mask
    found = marks.without_specks(mask)
    assert found[22, 22]
    assert not found[45, 45]
    assert not found[82, 82]
    assert found.sum() == 50 * 50 - 100


def test_masks_say_their_iou_and_their_scale() -> None:
    mask = np.zeros((1, 48, 60), np.uint8)
    mask[0, :24] = 1
    sample = detected({"gae": [[[1, 1], [0, 0]]]}, [LEFT_HALF], {"gae@0.3": mask, "gae@1": 1 - mask[:, :, ::-1]})
    figure = detections.draw_masks([sample], 0.3, ["gae"])
    assert notes(figure) == ["IoU 0.33"]
    assert any("Masks at 0.3 × Otsu's threshold" in text.get_text() for text in figure.texts)
    assert detections.mask_iou(mask[0], np.zeros_like(mask[0])) == 0
    assert len(contours(pictures(figure)[1])) == 3, "one around the mask, two around the object"
    other = detections.draw_masks([sample], 1.0, ["gae"])
    assert any("Masks at 1.0 × Otsu's threshold" in text.get_text() for text in other.texts)


@pytest.mark.parametrize("contrast", list(Contrast))
def test_a_map_of_next_to_nothing_is_said_to_be_so(contrast: Contrast) -> None:
    maps_ = [[[3, 1], [0, 0]], [[3e-4, 1e-4], [0, 0]]]
    figure = detections.draw_relevance([detected({"gae": maps_}, [LEFT_HALF] * 2)], ["gae"], contrast)
    assert notes(figure) == ["75 %", "≈ 0"]


def test_equal_rows_share_a_colour_bar() -> None:
    unsigned = [[[3, 1], [0, 0]]]
    sample = detected({"gae": unsigned, "odam": unsigned, "ours_full": [[[3, -1], [0, 0]]]}, [LEFT_HALF])
    assert len(bars(detections.draw_relevance([sample], ["gae", "odam"]))) == 1
    figure = detections.draw_relevance([sample], ["gae", "odam", "ours_full"], Contrast.log)
    assert len(bars(figure)) == 2
    ticks = [[t.get_text() for t in ax.get_yticklabels()] for ax in bars(figure)]
    assert ticks == [["1", "0.1", "0.01", "≤ 0.001"], ["+1", "+0.1", "+0.01", "≈ 0", "−1", "−0.1", "−0.01"]]
    assert "Ours (full)" in {text.get_text() for text in figure.texts}


def test_what_is_negative_is_hatched_too() -> None:
    def hatched(relevance: Any) -> bool:
        _, ax = plt.subplots()
        maps.show_map(ax, IMAGE, np.array(relevance), own_scale(np.array(relevance), signed=True))
        return bool(ax.collections)

    assert hatched([[1.0, -0.9]])
    assert not hatched([[1.0, -0.1]])
    figure = questions.draw_logic([logic(1.0, 1.0)])
    borders = [box.get_linestyle() for ax in figure.axes for box in ax.patches if isinstance(box, FancyBboxPatch)]
    assert [border not in ("-", "solid") for border in borders] == [False, True] * 2, "zebra and [SEP]"


def test_numbers_stand_in_the_corner_farthest_from_the_object() -> None:
    mask = np.zeros((48, 60), bool)
    assert marks.quiet_corner(mask) == marks.quiet_corner(None) == ("right", "top")
    mask[:24] = True
    assert marks.quiet_corner(mask) == ("right", "bottom")
    mask[:, 30:] = True
    assert marks.quiet_corner(mask) == ("left", "bottom")


def test_logic_has_one_scale_for_a_question_and_its_input_once() -> None:
    figure = questions.draw_logic([logic(1.0, 4.0), logic(4.0, 1e-3)])
    assert len(pictures(figure)) == 1 + 4
    weak, strong, nothing = (np.asarray(pictures(figure)[i].images[0].get_array())[24, 8] for i in (0, 1, 3))
    assert strong[0] - strong[2] > 2 * (weak[0] - weak[2]) > 0, "red in proportion to relevance"
    assert np.ptp(nothing) < 0.01
    signed = "+ 100 %\n− 0 %"
    assert notes(figure) == [signed, signed, signed, "≈ 0"]
    assert len(pictures(questions.draw_logic([logic(1.0, 4.0), logic(4.0, 1.0, item="2")]))) == 2 + 4
    for ax in pictures(figure)[:2]:
        assert contours(ax)[1].get_paths()[0].get_extents().x1 == 29.5, "the zebra, and not the dog"


def test_homologous_relevance_is_held_against_all_objects() -> None:
    relevance = {"homologous": {"image": [3, 1], "text": [0, 1, 2]}}
    things = [{"name": n, "named": False, "mask": m} for n, m in (("zebra", LEFT_HALF), ("dog", TOP_HALF))]
    figure = questions.draw_semantics([asked("1", things, relevance), asked("2", None, relevance)])
    assert notes(figure) == ["88 %"], "all of the left half and half of the right one; without annotations none"
    assert len(contours(pictures(figure)[1])) == 4


def test_samples_of_earlier_versions_are_refused() -> None:
    sample = detected({"gae": [[[3, 1], [0, 0]]]}, [LEFT_HALF])
    info = {key: value for key, value in sample.info.items() if key != "objects"}
    old = StoredExplanation(IMAGE, info, sample.relevance, command="python run.py task=samples model=detr")
    with pytest.raises(
        DataError, match=r"has no annotated objects.*: make the samples again with `python run\.py task"
    ):
        detections.draw_relevance([old], ["gae"])
    hurt = StoredExplanation(IMAGE, {**info, "objects": [{"mask": {"size": [48, 60]}}]}, sample.relevance)
    with pytest.raises(DataError, match="an object of the explanation is damaged"):
        _ = hurt.objects


def test_contrast_of_figures(outputs: Path) -> None:
    write_samples(outputs)
    made = make_figures(outputs, contrast=Contrast.log)
    assert [p.name for p in made] == ["figure2", "figure5", "figure7", "figure8"]
    assert made[0].paths == [outputs / "figures" / f"figure2_log.{kind}" for kind in ("png", "pdf")]
    (own,) = make_figures(outputs, ["figure2"])
    assert own.paths[0].name == "figure2.png"
    assert own.paths[0].read_bytes() != made[0].paths[0].read_bytes()
    (shared,) = make_figures(outputs, ["figure8"], contrast=Contrast.shared)
    assert shared.paths[0].name == "figure8_shared.png"
    with pytest.raises(ConfigError, match=r"figure\.contrast=log is for figure2, .*figure8, not for figure3"):
        make_figures(outputs, ["figure2", "figure3"], contrast=Contrast.log)
    with pytest.raises(ConfigError, match="unknown figure 'figure9'"):
        make_figures(outputs, ["figure9"], contrast=Contrast.log)


def test_contrast_is_checked() -> None:
    assert composed("task=figure", "figure.contrast=log").figure.contrast is Contrast.log
    with pytest.raises(ConfigCompositionException, match=r"figure\.contrast=loud") as raised:
        composed("task=figure", "figure.contrast=loud")
    assert "own, shared, log" in str(raised.value.__cause__)


def test_rows_keep_to_a_page() -> None:
    sample = detected({f"m{n}": [[[3, 1], [0, 0]]] for n in range(9)}, [LEFT_HALF])
    assert detections.draw_relevance([sample], list(sample.relevance)).get_size_inches()[1] <= 8.6


def test_detections_are_of_samples_with_objects(outputs: Path) -> None:
    write_samples(outputs)
    found = read_samples(outputs, "detection").samples[0].objects
    assert found[0] is not None
    assert found[0].mask.sum() == 34 * 23
    assert found[1] is None
