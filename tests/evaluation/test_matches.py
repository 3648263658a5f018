"""AP and AR of resampled images against pycocotools on the resampled list itself."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hetexp.errors import InputError
from hetexp.evaluation.bootstrap import resample_counts
from hetexp.evaluation.coco import SEGM_THRESHOLDS, SegmentationScorer
from hetexp.evaluation.matches import Matches, estimates_of

SIDE = 160
IMAGES = 9


def shape(rng: np.random.Generator, side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y = rng.integers(0, SIDE - side, 2)
    mask[y : y + side, x : x + rng.integers(side // 2, side)] = 1
    return mask


def moved(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.roll(mask, rng.integers(-12, 13, 2), axis=(0, 1))


def code(mask: np.ndarray) -> dict[str, Any]:
    found = rle.encode(np.asfortranarray(mask))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def scene(seed: int) -> tuple[dict[int, list[dict[str, Any]]], dict[int, list[dict[str, Any]]]]:
    """Objects and detections by image: of three sizes, some crowds, misses and doubles; images without either."""
    rng = np.random.default_rng(seed)
    objects: dict[int, list[dict[str, Any]]] = {i: [] for i in range(1, IMAGES + 1)}
    found: dict[int, list[dict[str, Any]]] = {i: [] for i in range(1, IMAGES + 1)}
    for image in range(1, IMAGES):
        for _ in range(rng.integers(0, 5)):
            category = int(rng.integers(1, 4))
            mask = shape(rng, int(rng.choice([20, 60, 120])))
            crowd = int(rng.random() < 0.15)
            objects[image].append(
                {"category_id": category, "segmentation": code(mask), "area": float(mask.sum()), "iscrowd": crowd}
            )
            for _ in range(rng.integers(0, 3)):
                label = category if rng.random() < 0.8 else int(rng.integers(1, 5))
                found[image].append(
                    {"category_id": label, "segmentation": code(moved(mask, rng)), "score": float(rng.random())}
                )
    return objects, found


def dataset(objects: dict[int, list[dict[str, Any]]], images: list[int]) -> COCO:
    """The list of images as a COCO object; image number n of the list gets id n."""
    coco = COCO()
    annotations = [(n, o) for n, image in enumerate(images, 1) for o in objects[image]]
    coco.dataset = {
        "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(1, len(images) + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, 5)],
        "annotations": [{"id": k, "image_id": n, **o} for k, (n, o) in enumerate(annotations, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def pycocotools_metrics(
    objects: dict[int, list[dict[str, Any]]], found: dict[int, list[dict[str, Any]]], images: list[int]
) -> dict[str, float]:
    """COCOeval over all categories at once, as published, on a list with repeated images under ids of their own."""
    known, given = dataset(objects, images), COCO()
    detections = [(n, d) for n, image in enumerate(images, 1) for d in found[image]]
    given.dataset = {
        **{key: known.dataset[key] for key in ("images", "categories")},
        "annotations": [
            {"id": k, "image_id": n, "iscrowd": 0, "area": float(rle.area(d["segmentation"])), **d}
            for k, (n, d) in enumerate(detections, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        given.createIndex()
        run = COCOeval(known, given, "segm")
        run.params.iouThrs = np.array(SEGM_THRESHOLDS)
        run.params.maxDets = [100]
        run.evaluate()
        run.accumulate()
    out = {}
    for i, area in enumerate(("", "_small", "_medium", "_large")):
        for name, values in (("AP", run.eval["precision"][:, :, :, i]), ("AR", run.eval["recall"][:, :, i])):
            counted = values[values > -1]
            out[name + area] = float(counted.mean()) if counted.size else float("nan")
    first = run.eval["precision"][0, :, :, 0]
    out["AP20"] = float(first[first > -1].mean())
    return out


def matches_of(objects: dict[int, list[dict[str, Any]]], found: dict[int, list[dict[str, Any]]]) -> SegmentationScorer:
    images = list(range(1, IMAGES + 1))
    scorer = SegmentationScorer(dataset(objects, images), images)
    for image in images:
        for detection in found[image]:
            scorer.add({"image_id": image, **detection})
    return scorer


@pytest.mark.parametrize("seed", range(8))
def test_any_resample_equals_pycocotools_on_the_resampled_list(seed: int) -> None:
    objects, found = scene(seed)
    matches = matches_of(objects, found).matches()
    counts = resample_counts(IMAGES, 12, seed)
    ours = matches.metrics(counts)
    for b, row in enumerate(counts):
        images = [image for image, count in enumerate(row, 1) for _ in range(count)]
        theirs = pycocotools_metrics(objects, found, images)
        assert set(theirs) == set(ours)
        for name, value in theirs.items():
            assert ours[name][b] == pytest.approx(value, abs=1e-12, nan_ok=True), (name, row)


def test_images_once_each_give_the_metrics_themselves() -> None:
    scorer = matches_of(*scene(3))
    matches = scorer.matches()
    once = matches.metrics(np.ones((1, IMAGES), dtype=np.int32))
    for name, value in scorer.metrics().items():
        assert once[name][0] == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)
    assert matches.estimates(resample_counts(IMAGES, 5, 0), ["AP"])["AP"].value == pytest.approx(100 * once["AP"][0])


def test_a_later_detection_counts() -> None:
    scorer = matches_of(*scene(3))
    before = len(scorer.matches().score)
    scorer.add({"image_id": 1, **_any_detection(3)})
    assert len(scorer.matches().score) == before + 1


def _any_detection(seed: int) -> dict[str, Any]:
    return next(d for of_image in scene(seed)[1].values() for d in of_image if d["category_id"] < 4)


def test_some_metrics_are_some_of_all() -> None:
    matches = matches_of(*scene(1)).matches()
    counts = resample_counts(IMAGES, 6, 1)
    everything = matches.metrics(counts)
    for name in matches.names:
        assert np.array_equal(matches.metrics(counts, [name])[name], everything[name], equal_nan=True)


def test_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = matches_of(*scene(2)).matches()
    counts = resample_counts(IMAGES, 7, 1)
    at_once = matches.metrics(counts)
    monkeypatch.setattr("hetexp.evaluation.curves._VALUES", 1)
    for name, values in matches.metrics(counts).items():
        assert np.array_equal(values, at_once[name], equal_nan=True)


def test_a_list_has_the_same_bits_alone_and_among_others() -> None:
    matches = matches_of(*scene(2)).matches()
    counts = resample_counts(IMAGES, 40, 1)
    together = matches.metrics(counts)
    for name, values in together.items():
        alone = [matches.metrics(counts[b : b + 1])[name][0] for b in range(len(counts))]
        assert np.array_equal(alone, values, equal_nan=True), name
    for name, estimate in matches.estimates(counts).items():
        assert np.array_equal(estimate.resampled, 100 * together[name], equal_nan=True)


def test_stored_and_read_again() -> None:
    matches = matches_of(*scene(2)).matches()
    again = Matches.from_arrays(matches.arrays())
    counts = resample_counts(IMAGES, 3, 0)
    assert np.array_equal(again.metrics(counts)["AP"], matches.metrics(counts)["AP"])


def test_no_detections_and_no_objects() -> None:
    objects, _ = scene(0)
    none: dict[int, list[dict[str, Any]]] = {image: [] for image in objects}
    counts = resample_counts(IMAGES, 4, 0)
    assert np.nanmax(matches_of(objects, none).matches().metrics(counts)["AP"]) == 0
    assert np.isnan(matches_of(none, none).matches().metrics(counts)["AR"]).all()


def test_unknown_metrics_and_other_images_are_refused() -> None:
    matches = matches_of(*scene(0)).matches()
    with pytest.raises(InputError, match=r"unknown COCO metric AP_huge\. Available: AP, AP_small"):
        matches.metrics(resample_counts(IMAGES, 2, 0), ["AP_huge"])
    with pytest.raises(InputError, match=r"counts must be \[B, 9\]"):
        matches.metrics(resample_counts(4, 2, 0))


def test_sets_of_masks_together_give_the_estimates_of_each_alone() -> None:
    objects, found = scene(4)
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(3):  # the same detections, other masks
        moved_masks = {i: [{**d, "segmentation": code(shape(rng, 80))} for d in ds] for i, ds in found.items()}
        sets.append(matches_of(objects, moved_masks).matches())
    sets.append(matches_of(objects, found).matches())
    counts = resample_counts(IMAGES, 20, 3)
    for alone, together in zip(sets, estimates_of(sets, counts), strict=True):
        for name, estimate in alone.estimates(counts).items():
            assert np.array_equal(estimate.resampled, together[name].resampled, equal_nan=True)
    other = matches_of(*scene(5)).matches()
    mixed = estimates_of([sets[0], other], counts, ["AP"])
    assert mixed[1]["AP"].value == other.estimates(counts, ["AP"])["AP"].value
