"""Sprites, rendered scenes, the committed validation scenes and the training arrays."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hetexp.data.synthetic.coco_format import write_coco
from hetexp.data.synthetic.scenes import LEAST_VISIBLE, SIZES, VALIDATION_SEED, render_scene, scene_rng
from hetexp.data.synthetic.sprites import Sprite, SpriteSet, load_sprites
from hetexp.data.synthetic.training_arrays import input_size, render_training_arrays
from hetexp.errors import DataError, InputError
from hetexp.paths import asset

VAL = Path(asset("scenes")) / "val"
COCO_IDS = {
    "person": 1, "bicycle": 2, "car": 3, "airplane": 5, "bus": 6, "train": 7, "truck": 8, "boat": 9, "bird": 16,
    "cat": 17, "dog": 18, "horse": 19, "sheep": 20, "cow": 21, "elephant": 22, "bear": 23, "zebra": 24, "giraffe": 25,
    "umbrella": 28, "banana": 52, "apple": 53, "pizza": 59, "donut": 60, "cake": 61,
}  # fmt: skip


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VAL / "annotations.json").read_text(encoding="utf-8"))
    return loaded


def test_sprites_carry_cocos_own_ids_and_every_category_has_a_look() -> None:
    sprites = load_sprites()
    assert {c["name"]: c["id"] for c in sprites.categories} == COCO_IDS
    assert all(sprites.by_category[name] for name in COCO_IDS)
    ids = [c["id"] for c in sprites.categories]
    assert ids == sorted(ids)


def test_recolored_sprites_show_the_named_hue() -> None:
    hues = {"red": 0, "yellow": 34, "green": 92, "blue": 152, "purple": 200}  # of 0..255
    for sprites in load_sprites().by_category.values():
        for sprite in sprites:
            if sprite.color is None:
                continue
            hue, saturation, _ = (np.asarray(band) for band in sprite.image.convert("RGB").convert("HSV").split())
            vivid = (saturation > 100) & (np.asarray(sprite.image)[..., 3] > 200)
            distance = np.abs((hue[vivid].astype(int) - hues[sprite.color] + 128) % 256 - 128)
            assert np.mean(distance < 16) > 0.4, (sprite.category, sprite.color)


def test_missing_sprites_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        load_sprites(str(tmp_path))


def test_same_seed_same_scene_other_index_other_scene() -> None:
    first, again, other = (render_scene(scene_rng(11, i)) for i in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    for a, b in zip(first.objects, again.objects, strict=True):
        assert a.bbox == b.bbox
        assert np.array_equal(a.mask, b.mask)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("index", range(12))
def test_masks_are_disjoint_and_agree_with_box_area_and_depth(index: int) -> None:
    width, height = SIZES[index % 3]
    scene = render_scene(scene_rng(12, index), (width, height))
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert 1 <= len(scene.objects) <= 6
    assert np.sum([o.mask for o in scene.objects], axis=0).max() == 1
    assert [o.depth for o in scene.objects] == list(range(len(scene.objects)))
    for thing in scene.objects:
        x, y, w, h = thing.bbox
        inside = thing.mask[y : y + h, x : x + w]
        assert thing.area == thing.mask.sum() == inside.sum()
        assert inside[:, [0, -1]].any(0).all()
        assert inside[[0, -1]].any(1).all()
        assert LEAST_VISIBLE <= thing.visible <= 1
    assert scene.objects[0].visible > 0.5  # nothing but the frame hides the front-most object


def test_masks_cover_exactly_the_drawn_pixels() -> None:
    """A sprite in a colour that no background has: the picture shows it where the masks say, and nowhere else."""
    picture = Image.new("RGBA", (100, 60), (255, 0, 255, 255))
    sprite = Sprite("kite", 38, None, picture, 6000)
    sprites = SpriteSet(({"id": 38, "name": "kite", "supercategory": "sports"},), {"kite": (sprite,)})
    for index in range(10):
        scene = render_scene(scene_rng(13, index), sprites=sprites)
        drawn = np.stack([o.mask for o in scene.objects]).any(0)
        color = scene.image.astype(int)
        magenta = (color[..., 0] - color[..., 1] > 110) & (color[..., 2] - color[..., 1] > 110)
        assert np.mean(magenta != drawn) < 0.02  # soft edges only
        assert magenta[drawn].mean() > 0.93


def test_a_tiny_frame_is_refused() -> None:
    with pytest.raises(InputError, match="20 x 256"):
        render_scene(scene_rng(0, 0), (20, 256))


def test_committed_annotations_load_and_every_image_is_there(committed: dict[str, Any]) -> None:
    coco = COCO(str(VAL / "annotations.json"))
    assert len(coco.imgs) >= 300
    assert {c["name"]: c["id"] for c in committed["categories"]} == COCO_IDS
    assert {i["file_name"] for i in committed["images"]} == {p.name for p in (VAL / "images").iterdir()}
    for info in committed["images"]:
        with Image.open(VAL / "images" / info["file_name"]) as image:
            assert image.size == (info["width"], info["height"])
    for record in committed["annotations"][:200]:
        mask = coco.annToMask(record)
        assert mask.sum() == record["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        assert box == record["bbox"]


def test_committed_areas_sizes_and_colors_are_varied(committed: dict[str, Any]) -> None:
    areas = np.array([a["area"] for a in committed["annotations"]])
    small, large = np.mean(areas < 32**2), np.mean(areas > 96**2)
    assert small > 0.1
    assert large > 0.25
    assert 1 - small - large > 0.3
    assert {(i["width"], i["height"]) for i in committed["images"]} == set(SIZES)
    counts = Counter(a["category_id"] for a in committed["annotations"])
    assert set(counts) == set(COCO_IDS.values())
    assert min(counts.values()) >= 20
    assert {a["color"] for a in committed["annotations"]} == {None, "red", "yellow", "green", "blue", "purple"}


def test_committed_masks_are_those_of_the_seed(committed: dict[str, Any]) -> None:
    coco = COCO(str(VAL / "annotations.json"))
    for image_id in (1, 200, 400):
        scene = render_scene(scene_rng(VALIDATION_SEED, image_id - 1))
        records = sorted(coco.imgToAnns[image_id], key=lambda a: a["depth"])
        assert [r["category_id"] for r in records] == [o.category_id for o in scene.objects]
        for record, thing in zip(records, scene.objects, strict=True):
            assert np.mean(coco.annToMask(record) != thing.mask) < 1e-3  # other Pillow versions may round otherwise


def test_written_folder_round_trips(tmp_path: Path) -> None:
    scenes = [render_scene(scene_rng(14, i)) for i in range(3)]
    write_coco(tmp_path, scenes)
    coco = COCO(str(tmp_path / "annotations.json"))
    assert sorted(coco.imgs) == [1, 2, 3]
    for image_id, scene in enumerate(scenes, start=1):
        masks = [coco.annToMask(a) for a in sorted(coco.imgToAnns[image_id], key=lambda a: a["depth"])]
        assert np.array_equal(np.stack(masks), np.stack([o.mask for o in scene.objects]))


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 256), (192, 192)), ((320, 240), (192, 256)), ((240, 320), (256, 192))]
)
def test_input_size_is_that_of_detrs_processor(size: tuple[int, int], expected: tuple[int, int]) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    assert input_size(*size) == expected
    assert get_size_with_aspect_ratio((size[1], size[0]), 192, 256) == expected


def test_arrays_hold_each_scenes_objects() -> None:
    by_size = render_training_arrays(15, 0, 6)
    assert sum(len(p) for p in by_size.values()) == 6
    arrays = by_size[192, 256]  # scenes 1 and 4, 320 x 240
    scene = render_scene(scene_rng(15, 1), SIZES[1])
    names = load_sprites().names
    found = [names[i] for i in arrays.labels[0] if i >= 0]
    assert found == [o.category for o in scene.objects]
    x, y, w, h = scene.objects[0].bbox
    assert np.allclose(arrays.boxes[0, 0], [(x + w / 2) / 320, (y + h / 2) / 240, w / 320, h / 240])
    share = [o.area / (320 * 240) for o in scene.objects]
    seen = [float(np.mean(arrays.owners[0] == i)) for i in range(len(scene.objects))]
    assert np.allclose(share, seen, atol=0.01)


def test_arrays_of_no_scenes_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        render_training_arrays(15, 0, 0)
