"""COCO-format folders: what is read, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from hetexp.data.categories import category_ids, category_of
from hetexp.data.coco import CocoScenes, ItemError
from hetexp.errors import DataError

# pycocotools' decoder predates numpy 2's copy keyword
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

Folder = tuple[Path, dict[str, Any], np.ndarray]  # the folder, its annotations, the crowd's mask

ANNOTATION: dict[str, Any] = {
    "bbox": [1, 1, 4, 4],
    "area": 16,
    "iscrowd": 0,
    "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]],
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Four images (colour, grey, CMYK, and one without annotations) and their annotation content."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    for name, mode in (("c.jpg", "RGB"), ("g.jpg", "L"), ("k.jpg", "CMYK"), ("none.jpg", "RGB")):
        colour.convert(mode).save(images / name)
    crowd = np.zeros((20, 30), dtype=np.uint8)
    crowd[2:5, 3:9] = 1
    runs = [3 * 20 + 2]
    for _ in range(5):
        runs += [3, 17]
    runs += [3, 600 - sum(runs) - 3]
    content = {
        "images": [
            {"id": i, "file_name": n, "width": 30, "height": 20}
            for i, n in ((9, "g.jpg"), (3, "c.jpg"), (12, "k.jpg"), (5, "none.jpg"))
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, **ANNOTATION},
            {
                "id": 2,
                "image_id": 9,
                "category_id": 24,
                **ANNOTATION,
                "iscrowd": 1,
                "segmentation": {"counts": runs, "size": [20, 30]},
            },
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 24, "name": "zebra"}],
    }
    (tmp_path / "ann.json").write_text(json.dumps(content))
    return tmp_path, content, crowd


def scenes(folder: Folder, **kwargs: Any) -> CocoScenes:
    return CocoScenes(folder[0] / "images", folder[0] / "ann.json", **kwargs)


def rewrite(folder: Folder, content: Any) -> None:
    (folder[0] / "ann.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_items_come_in_id_order_and_limit_cuts(folder: Folder) -> None:
    data = scenes(folder)
    assert [item.image_id for item in data.items] == [3, 5, 9, 12]
    assert len(data) == 4
    assert [item.file_name for item in scenes(folder, limit=2).items] == ["c.jpg", "none.jpg"]
    assert data.categories == {1: "person", 24: "zebra"}


def test_every_colour_mode_loads_as_rgb(folder: Folder) -> None:
    data = scenes(folder)
    for item in data.items:
        image = data.load(item)
        assert image.mode == "RGB"
        assert image.size == (item.width, item.height)
    grey = np.asarray(data.load(data.items[2]))
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_orientation_tag_is_not_applied(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder[0] / "images" / "c.jpg"
    Image.open(path).copy().save(path, exif=exif)
    data = scenes(folder)
    assert data.load(data.items[0]).size == (30, 20)


def test_crowd_runs_and_polygons_are_understood(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    coco = scenes(folder).coco
    assert capsys.readouterr().out == ""
    assert np.array_equal(coco.annToMask(coco.anns[2]), folder[2])
    assert rle.area(coco.annToRLE(coco.anns[1])) == 16
    assert coco.getAnnIds(imgIds=[5]) == []


def test_digests_follow_the_bytes_and_the_recorded_size(folder: Folder) -> None:
    data = scenes(folder)
    first = data.items[0]
    path = folder[0] / "images" / "c.jpg"
    assert data.dataset_digest() == hashlib.sha256((folder[0] / "ann.json").read_bytes()).hexdigest()
    before = data.item_digest(first)
    assert scenes(folder).item_digest(first) == before
    assert data.item_digest(replace(first, width=20, height=30)) != before
    path.write_bytes(path.read_bytes() + b" ")
    assert data.item_digest(first) != before


def test_damaged_images_are_item_errors_that_name_the_file(folder: Folder) -> None:
    data = scenes(folder)
    path = folder[0] / "images" / "c.jpg"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"not an image", b""):
        path.write_bytes(content)
        with pytest.raises(
            ItemError, match=r"c\.jpg is damaged \((?!.*0x).*\)"
        ):  # no object's address: reruns are equal
            data.load(data.items[0])
    Image.new("RGB", (20, 30)).save(path)
    with pytest.raises(ItemError, match=r"20 x 30 pixels .* says 30 x 20"):
        data.load(data.items[0])
    path.unlink()
    for call in (data.load, data.item_digest):
        with pytest.raises(ItemError, match=r"c\.jpg cannot be read"):
            call(data.items[0])


def test_missing_folder_file_and_image(folder: Folder) -> None:
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        CocoScenes(folder[0] / "nowhere", folder[0] / "ann.json")
    with pytest.raises(DataError, match=r"annotation file .*none\.json does not exist"):
        CocoScenes(folder[0] / "images", folder[0] / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        CocoScenes(folder[0] / "images", folder[0])
    (folder[0] / "images" / "k.jpg").unlink()
    with pytest.raises(DataError, match=r"names 1 image\(s\) that are not in .*k\.jpg"):
        scenes(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: json.dumps(c)[:100], "not valid JSON"),
        (lambda c: "[1, 2]", "holds a list"),
        (lambda c: {k: v for k, v in c.items() if k != "categories"}, "lacks the list 'categories'"),
        (lambda c: c | {"images": [], "annotations": []}, "lists no images"),
        (lambda c: c | {"images": [{"id": 1, "file_name": "c.jpg"}]}, r"images\[0\] lacks width, height"),
        (lambda c: c | {"images": [*c["images"], c["images"][0]]}, "image id 9 twice"),
        (lambda c: c | {"images": [c["images"][0] | {"width": 0}]}, r"size in whole pixels"),
        (lambda c: c | {"images": [c["images"][0] | {"id": "x"}]}, r"expected a whole number"),
        (lambda c: c | {"annotations": [c["annotations"][0] | {"image_id": 77}]}, "image 77"),
        (lambda c: c | {"annotations": [c["annotations"][0] | {"category_id": 5}]}, "category 5"),
        (lambda c: c | {"annotations": [{"id": 1}]}, r"annotations\[0\] lacks image_id"),
    ],
)
def test_damaged_annotation_files_are_refused(
    folder: Folder, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(folder, damage(folder[1]))
    with pytest.raises(DataError, match=message):
        scenes(folder)


def test_limit_below_one_is_refused(folder: Folder) -> None:
    with pytest.raises(DataError, match="at least 1 image, got 0"):
        scenes(folder, limit=0)


def test_labels_meet_categories_by_name(folder: Folder) -> None:
    coco = scenes(folder).coco
    assert category_ids({0: "N/A", 1: "person", 2: "N/A", 5: "LABEL_5", 7: "zebra"}, coco) == {
        0: None,
        1: 1,
        2: None,
        5: None,
        7: 24,
    }
    names = {0: "N/A", 1: "person"}
    mapping = category_ids(names, coco)
    assert category_of(1, mapping, names) == 1
    assert category_of(0, mapping, names) is None
    with pytest.raises(DataError, match="label 2 is none of the model's 2 labels"):
        category_of(2, mapping, names)
    with pytest.raises(DataError, match="matched by name"):
        category_ids({0: "N/A", 1: "LABEL_1"}, coco)
    with pytest.raises(DataError, match="several model labels are named zebra"):
        category_ids({0: "zebra", 1: "zebra"}, coco)
