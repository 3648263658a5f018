"""COCO evaluation on masks whose IoU is known by hand."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.errors import InputError
from hetexp.evaluation.coco import SEGM_THRESHOLDS, BoxScorer, SegmentationScorer, evaluate_boxes, evaluate_segm
from hetexp.evaluation.masks import encode

SIDE = 200
Box = tuple[int, int, int, int]  # x, y, width, height
ONE = pytest.approx(1.0, abs=1e-12)  # pycocotools adds a rounding step to its denominators
KEYS = {"AP", "AP_small", "AP_medium", "AP_large", "AR", "AR_small", "AR_medium", "AR_large"}


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def code(mask: np.ndarray) -> dict[str, Any]:
    return encode(torch.from_numpy(mask)[None])[0]


def truth(objects: Sequence[tuple[int, int, Box]], images: Iterable[int] = (1, 2)) -> COCO:
    """A COCO object from (image, category, (x, y, w, h)) with polygons."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": SIDE, "width": SIDE, "file_name": f"{i}.jpg"} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in (1, 2, 7)],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for n, (image, category, (x, y, w, h)) in enumerate(objects, start=1)
        ],
    }
    coco.createIndex()
    return coco


@pytest.fixture(autouse=True)
def prints_nothing_itself(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert "Accumulating" not in capsys.readouterr().out


def detection(image: int, category: int | None, mask: np.ndarray, score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "score": score, "segmentation": code(mask)}


def test_perfect_masks_give_one_and_absent_areas_none() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100)), (2, 7, (20, 30, 50, 40))])
    before = copy.deepcopy(coco.dataset)
    found = [detection(1, 1, rectangle(0, 0, 100, 100)), detection(2, 7, rectangle(20, 30, 50, 40))]
    result = evaluate_segm(coco, found, [1, 2])
    assert set(result) == KEYS | {"AP20"}
    for key in ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large", "AP20"):
        assert result[key] == ONE
    assert result["AP_small"] is None
    assert result["AR_small"] is None
    assert coco.dataset == before, "the caller's annotations were changed"
    assert set(found[0]) == {"image_id", "category_id", "score", "segmentation"}


def test_known_iou_passes_exactly_the_thresholds_below_it() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    # shifted by 30: intersection 70, union 130, IoU 0.538 -> 0.20 .. 0.50 pass: 7 of 16
    result = evaluate_segm(coco, [detection(1, 1, rectangle(30, 0, 100, 100))], [1, 2])
    passed = sum(t <= 70 / 130 for t in SEGM_THRESHOLDS)
    assert passed == 7
    assert result["AP"] == pytest.approx(7 / 16)
    assert result["AR"] == pytest.approx(7 / 16)
    assert result["AP_large"] == pytest.approx(7 / 16)
    assert result["AP20"] == ONE
    strict = evaluate_segm(coco, [detection(1, 1, rectangle(30, 0, 100, 100))], [1], iou_thresholds=[0.55, 0.6])
    assert strict["AP"] == 0.0
    assert strict["AP55"] == 0.0


def test_false_positive_of_higher_score_halves_precision() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    found = [
        detection(1, 1, rectangle(150, 150, 40, 40), 0.95),
        detection(1, 1, rectangle(0, 0, 100, 100), 0.60),
    ]
    result = evaluate_segm(coco, found, [1])
    assert result["AP"] == pytest.approx(0.5)
    assert result["AR"] == 1.0


def test_only_listed_images_count() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100)), (2, 1, (0, 0, 100, 100))])
    found = [detection(1, 1, rectangle(0, 0, 100, 100))]
    assert evaluate_segm(coco, found, [1])["AR"] == 1.0
    assert evaluate_segm(coco, found, [1, 2])["AR"] == 0.5
    with pytest.raises(InputError, match="image 1, which is not among the 1"):
        evaluate_segm(coco, found, [2])


def test_no_detections_give_zero_and_no_truth_gives_none() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    nothing = evaluate_segm(coco, [], [1, 2])
    assert nothing["AP"] == nothing["AR"] == nothing["AP_large"] == nothing["AP20"] == 0.0
    assert nothing["AP_medium"] is None
    assert set(evaluate_segm(coco, [], [2]).values()) == {None}
    assert set(evaluate_segm(coco, [], []).values()) == {None}  # no image is not all images


def test_labels_that_are_no_category_do_not_count() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    found = detection(1, 1, rectangle(0, 0, 100, 100))
    stranger = detection(1, None, rectangle(50, 50, 90, 90), 0.99)
    assert evaluate_segm(coco, [stranger, found], [1]) == evaluate_segm(coco, [found], [1])


def test_empty_masks_are_valid_and_never_match() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    empty = detection(1, 1, np.zeros((SIDE, SIDE), dtype=bool), 0.1)
    full = detection(1, 1, rectangle(0, 0, 100, 100))
    assert evaluate_segm(coco, [empty], [1])["AP"] == 0.0
    assert evaluate_segm(coco, [full, empty], [1])["AP"] == ONE


def test_mask_area_counts_even_when_a_box_is_given() -> None:
    coco = truth([(1, 1, (0, 0, 50, 50))])
    found = detection(1, 1, rectangle(0, 0, 50, 50))
    small = detection(1, 1, rectangle(100, 100, 10, 10), 0.95) | {"bbox": [0, 0, 60, 60]}
    # the false positive is small: it leaves the medium AP alone, as its box's area would not
    assert evaluate_segm(coco, [found, small], [1])["AP_medium"] == ONE
    medium = detection(1, 1, rectangle(100, 100, 50, 50), 0.95) | {"bbox": [0, 0, 5, 5]}
    assert evaluate_segm(coco, [found, medium], [1])["AP_medium"] == pytest.approx(0.5)


def test_boxes() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100)), (2, 2, (10, 10, 40, 40))])
    found = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [0, 0, 100, 80]},  # IoU 0.8: 7 of 10 thresholds
        {"image_id": 2, "category_id": 2, "score": 0.8, "bbox": [10, 10, 40, 40]},
    ]
    result = evaluate_boxes(coco, found, [1, 2])
    assert result["AP"] == pytest.approx((0.7 + 1.0) / 2)
    assert result["AP50"] == ONE
    assert result["AP_large"] == pytest.approx(0.7)
    assert evaluate_boxes(coco, [], [1, 2])["AP"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 99}, "category id 99"),
        ({"score": float("nan")}, "score nan"),
        ({"image_id": 55}, "image 55"),
        ({"segmentation": code(np.zeros((5, 6), dtype=bool))}, "size of the original image"),
    ],
)
def test_bad_detections_are_refused(change: dict[str, Any], message: str) -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    with pytest.raises(InputError, match=message):
        evaluate_segm(coco, [detection(1, 1, rectangle(0, 0, 9, 9)) | change], [1])


def test_bad_boxes_ids_thresholds_and_keys_are_refused() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100))])
    box = {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [0, 0, -1, 5]}
    with pytest.raises(InputError, match="width, height >= 0"):
        evaluate_boxes(coco, [box], [1])
    with pytest.raises(InputError, match="lacks score"):
        evaluate_boxes(coco, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], [1])
    with pytest.raises(InputError, match="not in the annotation file"):
        evaluate_boxes(coco, [], [1, 404])
    with pytest.raises(InputError, match="IoU thresholds"):
        evaluate_boxes(coco, [], [1], iou_thresholds=[])


def plain_coco(
    coco: COCO, found: Sequence[dict[str, Any]], ids: Iterable[int], kind: str, thresholds: Sequence[float]
) -> dict[str, float | None]:
    """pycocotools' own metrics, everything in one go: the oracle."""
    found = [{**d, "id": n, "iscrowd": 0} for n, d in enumerate(found, start=1)]
    for d in found:
        d["area"] = float(rle.area(d["segmentation"])) if kind == "segm" else d["bbox"][2] * d["bbox"][3]
    given = COCO()
    given.dataset = {**coco.dataset, "annotations": found}
    given.createIndex()
    run = COCOeval(copy.deepcopy(coco), given, kind)
    run.params.imgIds, run.params.iouThrs, run.params.maxDets = list(ids), np.asarray(thresholds), [100]
    with contextlib.redirect_stdout(None):
        run.evaluate()
        run.accumulate()
    areas = ("", "_small", "_medium", "_large")
    metrics = {f"AP{area}": run.eval["precision"][:, :, :, i, 0] for i, area in enumerate(areas)}
    metrics |= {f"AR{area}": run.eval["recall"][:, :, i, 0] for i, area in enumerate(areas)}
    return {k: None if (v == -1).all() else v[v > -1].mean() for k, v in metrics.items()}


@pytest.mark.parametrize("values", [1, 5000, 500_000])
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_metrics_are_those_of_pycocotools_in_blocks_of_any_size(
    kind: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal scores, crowds, images without truth or detections, and one with more than 100 detections."""
    monkeypatch.setattr("hetexp.evaluation.matching._VALUES", values)
    rng = np.random.default_rng(0)
    images = range(1, 9)
    objects = [(int(rng.integers(1, 8)), int(rng.choice([1, 2])), box(rng)) for _ in range(30)]
    coco = truth(objects, images)
    for annotation in coco.dataset["annotations"][::7]:
        annotation["iscrowd"] = 1
    found = []
    for image, category, (x, y, w, h) in objects * 2 + [(8, 7, (0, 0, 9, 9))] + [objects[0]] * 120:
        x, y = (max(0, int(v + rng.integers(-6, 7))) for v in (x, y))
        guess = category if rng.random() < 0.8 else 7
        score = round(float(rng.random()), 1)
        found.append({**detection(image, guess, rectangle(x, y, w, h), score), "bbox": [x, y, w, h]})
    evaluate = evaluate_segm if kind == "segm" else evaluate_boxes
    thresholds = [0.2, 0.5, 0.75]
    result = evaluate(coco, found, images, thresholds)
    for key, value in plain_coco(coco, found, images, kind, thresholds).items():
        assert result[key] == value, key
    assert result["AP"] is not None
    assert 0.1 < result["AP"] < 0.9


def box(rng: np.random.Generator) -> Box:
    x, y = rng.integers(0, 100, 2)
    w, h = rng.integers(8, 100, 2)
    return int(x), int(y), int(w), int(h)


def test_detections_come_one_by_one_and_metrics_can_be_asked_at_any_time() -> None:
    coco = truth([(1, 1, (0, 0, 100, 100)), (2, 7, (20, 30, 50, 40))])
    found = [detection(1, 1, rectangle(0, 0, 100, 90)), detection(2, 7, rectangle(20, 30, 50, 30))]
    scorer = SegmentationScorer(coco, [1, 2])
    assert scorer.metrics() == evaluate_segm(coco, [], [1, 2])
    for n, one in enumerate(found, start=1):
        scorer.add(one)
        assert scorer.metrics() == evaluate_segm(coco, found[:n], [1, 2])
    with pytest.raises(InputError, match="detection 3 lacks score"):
        scorer.add({"image_id": 1, "category_id": 1, "segmentation": None})
    boxes = BoxScorer(coco, [1], [0.75])
    boxes.add({"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [0, 0, 100, 80]})
    assert boxes.metrics()["AP75"] == ONE
