"""Regions from an image: geometry, determinism, and the shipped ones recomputed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import DetrForObjectDetection

from hetexp.data.regions.features import FIXED, RegionHead, extract, iou, pool, suppress
from hetexp.errors import CheckpointError, InputError
from hetexp.paths import asset

SCENES = Path(asset("scenes")) / "val"
VQA = Path(asset("vqa"))


@pytest.fixture(scope="module")
def model() -> DetrForObjectDetection:
    return DetrForObjectDetection.from_pretrained(asset("detr"), local_files_only=True).eval()


@pytest.fixture(scope="module")
def head() -> RegionHead:
    return RegionHead.load()


@pytest.fixture(scope="module")
def shipped() -> dict[str, torch.Tensor]:
    return load_file(VQA / "regions.safetensors")


def test_shipped_regions_cover_the_scenes(shipped: dict[str, torch.Tensor]) -> None:
    names = json.loads((VQA / "regions.json").read_text(encoding="utf-8"))
    coco = json.loads((SCENES / "annotations.json").read_text(encoding="utf-8"))
    stems = [Path(i["file_name"]).stem for i in coco["images"]]
    assert names["image_ids"] == stems
    assert names["sizes"] == [[i["width"], i["height"]] for i in coco["images"]]
    features, boxes, offsets = shipped["features"], shipped["boxes"], shipped["offsets"]
    assert features.dtype == torch.float16
    assert boxes.dtype == torch.float32
    assert offsets.tolist() == list(range(0, 36 * len(stems) + 1, 36))
    assert features.shape[0] == boxes.shape[0] == 36 * len(stems)
    assert bool(features.isfinite().all())
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 1
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert float(features.float().std()) == pytest.approx(1, abs=0.3)


def test_shipped_regions_are_what_the_images_give(
    model: DetrForObjectDetection, head: RegionHead, shipped: dict[str, torch.Tensor]
) -> None:
    coco = json.loads((SCENES / "annotations.json").read_text(encoding="utf-8"))
    for row in (0, 57, 211, len(coco["images"]) - 1):
        with Image.open(SCENES / "images" / Path(coco["images"][row]["file_name"]).name) as image:
            regions = extract(image, model, head=head)
        rows = slice(int(shipped["offsets"][row]), int(shipped["offsets"][row + 1]))
        torch.testing.assert_close(regions.boxes, shipped["boxes"][rows], atol=1e-4, rtol=0)
        torch.testing.assert_close(regions.features, shipped["features"][rows].float(), atol=2e-2, rtol=2e-3)


def test_regions_find_the_objects(shipped: dict[str, torch.Tensor]) -> None:
    coco = json.loads((SCENES / "annotations.json").read_text(encoding="utf-8"))
    row = {image["id"]: i for i, image in enumerate(coco["images"])}
    found, total = 0, 0
    for a in coco["annotations"]:
        i = row[a["image_id"]]
        image = coco["images"][i]
        x, y, w, h = a["bbox"]
        truth = torch.tensor([[x, y, x + w, y + h]]) / torch.tensor([image["width"], image["height"]] * 2)
        rows = slice(int(shipped["offsets"][i]), int(shipped["offsets"][i + 1]))
        found += int(iou(truth, shipped["boxes"][rows]).max() >= 0.5)
        total += 1
    assert found / total > 0.85


@pytest.mark.parametrize(("size", "mode"), [((640, 480), "RGB"), ((33, 200), "L"), ((250, 260), "RGBA")])
def test_any_image_will_do(model: DetrForObjectDetection, head: RegionHead, size: tuple[int, int], mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    first, again = extract(image, model, 12, head), extract(image, model, 12, head)
    assert first.features.shape == (12, head.mean.shape[0])
    assert first.boxes[-len(FIXED) :].tolist() == [list(box) for box in FIXED]
    assert torch.equal(first.features, again.features)
    assert bool(first.features.isfinite().all())


def test_one_region_is_the_whole_image(model: DetrForObjectDetection, head: RegionHead) -> None:
    regions = extract(Image.new("RGB", (192, 192), "red"), model, 1, head)
    assert regions.boxes.tolist() == [[0, 0, 1, 1]]


def test_bad_input_is_named(model: DetrForObjectDetection, head: RegionHead, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n is 0"):
        extract(Image.new("RGB", (64, 64)), model, 0, head)
    with pytest.raises(InputError, match="image is 20x640"):
        extract(Image.new("RGB", (20, 640)), model, 4, head)
    with pytest.raises(InputError, match="trained on 7 backbone channels"):
        extract(Image.new("RGB", (64, 64)), model, 4, RegionHead(7))
    with pytest.raises(CheckpointError, match="does not exist"):
        RegionHead.load(tmp_path / "none.safetensors")


def test_pool_averages_inside_the_box() -> None:
    maps = torch.arange(8.0).repeat(8, 1)[None, None]  # value = column
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.5, 0.25, 0.75, 0.5]]])
    means = pool(maps, boxes, 4).mean(2)[0, :, 0]
    torch.testing.assert_close(means, torch.tensor([3.5, 4.5]))


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0.02, 0, 0.52, 0.5], [0.6, 0.6, 1, 1], [0.6, 0.6, 0.9, 1]])
    scores = torch.tensor([0.5, 0.9, 0.3, 0.4])
    assert suppress(boxes, scores, 4).tolist() == [1, 3]
    assert suppress(boxes, scores, 1).tolist() == [1]
