"""All thresholds at once, from cells, against one threshold after the other, from pixels and run lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from hetexp.errors import InputError
from hetexp.evaluation.coco import SegmentationScorer
from hetexp.evaluation.masks import encode, segment, to_uint8
from hetexp.evaluation.matches import Matches
from hetexp.evaluation.thresholds.otsu import otsu_thresholds
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.metrics import Segmentation
from hetexp.experiments.detection.scenes import Scene, StoredImage, SweptImage

SIZES = {1: ((48, 40), (96, 80)), 2: ((31, 57), (70, 128)), 3: ((20, 20), (64, 64)), 4: ((25, 30), (64, 90))}
SCALES = [0.3, 0.9, 0.9, 1.4]


def truth(rng: np.random.Generator) -> COCO:
    """Rectangles of two categories, some crowds; the third image has none, and ids do not rise with the images."""
    coco, annotations = COCO(), []
    for number in range(1, 25):
        image, category = int(rng.choice([1, 2, 4])), int(rng.integers(1, 3))
        (height, width), _ = SIZES[image]
        x, y = rng.uniform(0, width * 0.6), rng.uniform(0, height * 0.6)
        w, h = rng.uniform(4, width - x), rng.uniform(4, height - y)
        annotations.append(
            {
                "id": 100 - number,
                "image_id": image,
                "category_id": category,
                "area": w * h,
                "iscrowd": int(number % 6 == 0),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    coco.dataset = {
        "images": [{"id": i, "height": size[0], "width": size[1]} for i, (size, _) in SIZES.items()],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def detected(rng: np.random.Generator, image: int, count: int) -> list[tuple[int, int | None, float]]:
    """Detections with maps, without one, and of labels that are no category."""
    categories = [None, 1, 1, 2, 2, 3]
    some = [(row, categories[int(rng.integers(0, 6))], round(float(rng.random()), 1)) for row in range(count)]
    return [*some, (-1, 1, 0.35)] if image != 3 else []


@pytest.mark.parametrize("upsample", Upsampling)
@pytest.mark.parametrize("tie", Tie)
def test_every_threshold_is_scored_as_alone(upsample: Upsampling, tie: Tie) -> None:
    rng = np.random.default_rng(len(upsample) + len(tie))
    coco = truth(rng)
    swept = Segmentation(coco, list(SIZES), len(SCALES))
    alone = [SegmentationScorer(coco, SIZES) for _ in SCALES]
    for image, (size, input_size) in SIZES.items():
        relevance = torch.from_numpy(rng.random((0 if image == 3 else 7, 4, 5)) ** 2).float()
        found = detected(rng, image, len(relevance))
        stored = StoredImage(image, size, input_size, found, [(0.5, 0.5, 1.0, 1.0)] * len(found))
        u8 = to_uint8(relevance)
        levels = otsu_thresholds(u8)
        given = SweptImage(Scene(stored, coco), relevance, u8, levels, SCALES, upsample, tie)
        swept.add(given)
        for number, (scale, scorer) in enumerate(zip(SCALES, alone, strict=True)):
            masks = segment(relevance, scale, input_size, size, upsample, tie=tie)
            assert torch.equal(given.at(number).masks, masks)
            codes = [*encode(masks), *encode(torch.zeros(1, *size, dtype=torch.bool))]
            for row, category, score in found:
                scorer.add({"image_id": image, "category_id": category, "score": score, "segmentation": codes[row]})
    results = swept.at_each()
    for result, scorer in zip(results, alone, strict=True):
        assert result.metrics == scorer.metrics()
        for name, values in scorer.matches().arrays().items():
            assert np.array_equal(result.matches().arrays()[name], values), name
    assert results[0].metrics != results[3].metrics
    assert results[1].metrics == results[2].metrics


def test_without_images_nothing_is_found() -> None:
    (result,) = Segmentation(truth(np.random.default_rng(0)), [], 1).at_each()
    assert set(result.values().values()) == {None}
    assert isinstance(result.matches(), Matches)


def test_a_score_that_is_not_finite_is_refused() -> None:
    coco = truth(np.random.default_rng(0))
    scene = Scene(StoredImage(1, *SIZES[1], [(0, 1, float("nan"))], [(0.5, 0.5, 1.0, 1.0)]), coco)
    u8 = to_uint8(torch.rand(1, 4, 5))
    with pytest.raises(InputError, match="image 1 has a score that is not finite"):
        Segmentation(coco, [1], 1).add(SweptImage(scene, torch.rand(1, 4, 5), u8, otsu_thresholds(u8), [1.0]))
