"""Rendered scenes as arrays, for training: resized images, boxes, and which object each 4 x 4 patch shows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hetexp.data.synthetic.scenes import SIZES, Scene, render_scene, scene_rng
from hetexp.data.synthetic.sprites import load_sprites
from hetexp.errors import InputError

SHORT_SIDE = 192
LONG_SIDE = 256
PATCH = 4  # pixels of a patch of the owner map
MOST_OBJECTS = 6
SHARD = 50  # scenes that one worker renders at a time

Grid = tuple[int, int]  # height and width of the network input


@dataclass(frozen=True)
class TrainingArrays:
    """Scenes of one input size, N of them.

    Attributes:
        images: [N, h, w, 3].
        labels: [N, 6], the category's place in the sprite set or -1.
        boxes: [N, 6, 4], centre x, centre y, width and height in units of the image's sides.
        owners: [N, h/4, w/4], the object seen there or -1.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int8]
    boxes: NDArray[np.float32]
    owners: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.images)


def input_size(width: int, height: int) -> Grid:
    """Height and width after resizing to short side 192, long side at most 256, as DETR's processor rounds."""
    short, long = min(width, height), max(width, height)
    exact = min(float(SHORT_SIDE), LONG_SIDE * short / long)
    side = round(exact), int(exact * long / short)
    return (side[0], side[1]) if height <= width else (side[1], side[0])


def render_training_arrays(seed: int, first: int, count: int, workers: int = 1) -> dict[Grid, TrainingArrays]:
    """Render scenes of a data set.

    Args:
        seed: names the data set.
        first: number of the first scene.
        count: how many scenes.
        workers: processes that render.

    Returns:
        The scenes by input size.

    Raises:
        InputError: if `count` is below 1.
    """
    if count < 1:
        raise InputError(f"{count} scenes cannot be rendered: ask for at least 1")
    starts = range(first, first + count, SHARD)
    lengths = [min(SHARD, first + count - start) for start in starts]
    gathered: dict[Grid, list[TrainingArrays]] = {}
    for shard in _shards(seed, starts, lengths, workers):
        for size, arrays in shard.items():
            gathered.setdefault(size, []).append(arrays)
    return {size: _join(parts) for size, parts in sorted(gathered.items())}


def _shards(seed: int, starts: range, lengths: list[int], workers: int) -> Iterator[dict[Grid, TrainingArrays]]:
    if workers <= 1:
        yield from map(_shard, repeat(seed), starts, lengths)
        return
    with ProcessPoolExecutor(workers) as executor:
        yield from executor.map(_shard, repeat(seed), starts, lengths)


def _shard(seed: int, first: int, count: int) -> dict[Grid, TrainingArrays]:
    places = {name: i for i, name in enumerate(load_sprites().names)}
    rows: dict[Grid, list[TrainingArrays]] = {}
    for index in range(first, first + count):
        size = SIZES[index % len(SIZES)]
        scene = render_scene(scene_rng(seed, index), size)
        rows.setdefault(input_size(*size), []).append(scene_arrays(scene, places))
    return {size: _join(parts) for size, parts in rows.items()}


def scene_arrays(scene: Scene, places: dict[str, int]) -> TrainingArrays:
    """One scene as arrays of one, resized as DETR's image processor does (bilinear)."""
    height, width = scene.image.shape[:2]
    h, w = input_size(width, height)
    image = np.asarray(Image.fromarray(scene.image).resize((w, h), Image.Resampling.BILINEAR))
    labels = np.full((1, MOST_OBJECTS), -1, np.int8)
    boxes = np.zeros((1, MOST_OBJECTS, 4), np.float32)
    owner = np.full((height, width), -1, np.int8)
    for i, thing in enumerate(scene.objects):
        labels[0, i] = places[thing.category]
        x, y, bw, bh = thing.bbox
        boxes[0, i] = ((x + bw / 2) / width, (y + bh / 2) / height, bw / width, bh / height)
        owner[thing.mask] = i
    small = Image.fromarray(owner.view(np.uint8)).resize((w // PATCH, h // PATCH), Image.Resampling.NEAREST)
    return TrainingArrays(image[None], labels, boxes, np.asarray(small).view(np.int8)[None])


def _join(parts: list[TrainingArrays]) -> TrainingArrays:
    return TrainingArrays(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.owners for p in parts]),
    )
