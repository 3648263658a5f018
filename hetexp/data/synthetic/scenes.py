"""Rendered scenes: sprites of COCO categories over varied backgrounds, with exact instance masks.

Everything comes from a random generator, so a seed names a data set. Masks are the sprites' alpha after occlusion, so
they are exact and disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hetexp.data.synthetic.background import paint_background
from hetexp.data.synthetic.sprites import Sprite, SpriteSet, load_sprites
from hetexp.errors import InputError

SIZES = ((256, 256), (320, 240), (240, 320))  # width, height
VALIDATION_SEED = 20_170_000
COUNT_ODDS = (0.16, 0.22, 0.22, 0.17, 0.13, 0.10)  # of 1..6 objects
LEAST_VISIBLE = 0.3  # objects hidden or cut more than this are taken out of the scene
OPAQUE = 128  # alpha from which a pixel belongs to the object
BANDS = ((18, 32), (32, 96), (96, 165))  # sqrt of the area in pixels: COCO's small, medium, large


@dataclass(frozen=True)
class SceneObject:
    """One object as seen.

    Attributes:
        category: name of its COCO category.
        category_id: id of its COCO category.
        color: its colour's name, where the whole object has one.
        bbox: x, y, width, height of its visible pixels.
        mask: [height, width] of the scene, its visible pixels.
        area: number of visible pixels.
        visible: share of its pixels that is neither covered nor outside the frame.
        depth: drawing order from the front: 0 is the front-most object.
    """

    category: str
    category_id: int
    color: str | None
    bbox: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    area: int
    visible: float
    depth: int


@dataclass(frozen=True)
class Scene:
    """An image [height, width, 3] uint8 and its objects from front to back."""

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Placed:
    """A sprite turned and scaled, as RGBA [h, w, 4], with its top left corner in the scene."""

    sprite: Sprite
    pixels: NDArray[np.uint8]
    x: int
    y: int

    def window(self, width: int, height: int) -> tuple[slice, slice, slice, slice]:
        """Rows and columns in the scene, and the same in `pixels`, of the part inside the frame."""
        h, w = self.pixels.shape[:2]
        top, left = max(self.y, 0), max(self.x, 0)
        bottom, right = max(min(self.y + h, height), top), max(min(self.x + w, width), left)
        return (
            slice(top, bottom),
            slice(left, right),
            slice(top - self.y, bottom - self.y),
            slice(left - self.x, right - self.x),
        )


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """The generator of one scene of the data set that `seed` names: scenes can be made in any order."""
    return np.random.default_rng([seed, index])


def render_scene(
    rng: np.random.Generator, size: tuple[int, int] | None = None, sprites: SpriteSet | None = None
) -> Scene:
    """Render one scene of 1 to 6 objects.

    Args:
        rng: everything is drawn from it.
        size: width and height in pixels; None draws one of SIZES.
        sprites: what to compose; None takes the embedded sprites.

    Raises:
        InputError: if the size is below 64 pixels on a side.
    """
    sprites = sprites or load_sprites()
    width, height = size if size is not None else SIZES[int(rng.integers(len(SIZES)))]
    if min(width, height) < 64:
        raise InputError(f"a scene of {width} x {height} pixels is too small: use at least 64 on each side")
    canvas = paint_background(rng, width, height)
    placed = _visible_only(_place_all(rng, sprites, width, height), width, height)
    owner = _owners(placed, width, height)
    canvas = _compose(rng, canvas, placed)
    return Scene(_develop(rng, canvas), _describe(placed, owner))


def _place_all(rng: np.random.Generator, sprites: SpriteSet, width: int, height: int) -> list[_Placed]:
    """Draw objects and put them down, large ones mostly first so that small ones stay in sight."""
    count = 1 + int(rng.choice(len(COUNT_ODDS), p=COUNT_ODDS))
    names = sprites.names
    chosen: list[tuple[float, Sprite]] = []
    for _ in range(count):
        if chosen and rng.uniform() < 0.25:
            name = chosen[-1][1].category
        else:
            name = names[int(rng.integers(len(names)))]
        looks = sprites.by_category[name]
        sprite = looks[int(rng.integers(len(looks)))]
        large = 0.75 - 0.09 * count
        band = BANDS[int(rng.choice(3, p=(0.13, 0.87 - large, large)))]
        side = float(np.exp(rng.uniform(np.log(band[0]), np.log(band[1]))))
        chosen.append((side, sprite))
    order = sorted(range(count), key=lambda i: -chosen[i][0] * rng.uniform(0.6, 1.6))
    placed: list[_Placed] = []
    taken = np.zeros((height, width), bool)
    for i in order:
        side, sprite = chosen[i]
        pixels = _transform(rng, sprite, side, width, height)
        new = _put(rng, sprite, pixels, taken)
        rows, columns, inner_rows, inner_columns = new.window(width, height)
        taken[rows, columns] |= pixels[inner_rows, inner_columns, 3] >= OPAQUE
        placed.append(new)
    return placed


def _transform(rng: np.random.Generator, sprite: Sprite, side: float, width: int, height: int) -> NDArray[np.uint8]:
    """Flip, turn and scale a sprite to an area of about side², never larger than the frame allows."""
    image = sprite.image
    if rng.uniform() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.uniform() < 0.7:
        image = image.rotate(float(rng.normal(0, 11)), Image.Resampling.BICUBIC, expand=True)
    scale = side / np.sqrt(sprite.area)
    scale = min(scale, 1.05 * width / image.width, 1.05 * height / image.height)
    new_size = (max(4, round(image.width * scale)), max(4, round(image.height * scale)))
    return np.asarray(image.resize(new_size, Image.Resampling.BICUBIC))


def _put(rng: np.random.Generator, sprite: Sprite, pixels: NDArray[np.uint8], taken: NDArray[np.bool_]) -> _Placed:
    """Choose where a sprite goes: of a few random places, the first that hides little, else the best."""
    height, width = taken.shape
    h, w = pixels.shape[:2]
    over = 0.45 if rng.uniform() < 0.2 else 0.0  # share of the object that may leave the frame
    tolerated = rng.uniform(0, 0.35)
    best, least = _Placed(sprite, pixels, 0, 0), np.inf
    for _ in range(8):
        x = round(_between(rng, -over * w, width - w + over * w))
        y = round(_between(rng, -over * h, height - h + over * h))
        candidate = _Placed(sprite, pixels, x, y)
        rows, columns, _, _ = candidate.window(width, height)
        covered = taken[rows, columns].mean()
        if covered < least:
            best, least = candidate, covered
        if covered <= tolerated:
            break
    return best


def _between(rng: np.random.Generator, first: float, second: float) -> float:
    return float(rng.uniform(min(first, second), max(first, second)))


def _owners(placed: Sequence[_Placed], width: int, height: int) -> NDArray[np.int8]:
    """Which object each pixel shows, -1 for background [height, width]; later objects cover earlier ones."""
    owner = np.full((height, width), -1, np.int8)
    for i, thing in enumerate(placed):
        rows, columns, inner_rows, inner_columns = thing.window(width, height)
        owner[rows, columns][thing.pixels[inner_rows, inner_columns, 3] >= OPAQUE] = i
    return owner


def _visible_share(placed: Sequence[_Placed], owner: NDArray[np.int8]) -> NDArray[np.float64]:
    """Visible pixels of each object over all it would have alone and uncut."""
    shown = np.bincount(owner.ravel() + 1, minlength=len(placed) + 1)[1:]
    whole = np.array([max(1, np.count_nonzero(p.pixels[..., 3] >= OPAQUE)) for p in placed])
    return shown / whole


def _visible_only(placed: list[_Placed], width: int, height: int) -> list[_Placed]:
    """Take out the most hidden object until all that stay are visible enough."""
    while True:
        shares = _visible_share(placed, _owners(placed, width, height))
        worst = int(shares.argmin())
        if shares[worst] >= LEAST_VISIBLE or len(placed) == 1:
            return placed
        placed = placed[:worst] + placed[worst + 1 :]


def _compose(rng: np.random.Generator, canvas: NDArray[np.float32], placed: Sequence[_Placed]) -> NDArray[np.float32]:
    """Draw the objects from back to front, each over its soft shadow."""
    height, width = canvas.shape[:2]
    shade = rng.uniform(0.15, 0.45) if rng.uniform() < 0.8 else 0.0
    direction = rng.uniform(-0.06, 0.06)
    for thing in placed:
        if shade:
            shadow = _shadow(thing, direction)
            rows, columns, inner_rows, inner_columns = shadow.window(width, height)
            canvas[rows, columns] *= 1 - shade * shadow.pixels[inner_rows, inner_columns, 3:] / np.float32(255)
        rows, columns, inner_rows, inner_columns = thing.window(width, height)
        pixels = thing.pixels[inner_rows, inner_columns].astype(np.float32)
        tint = (rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
        alpha = pixels[..., 3:] / 255
        canvas[rows, columns] += alpha * ((pixels[..., :3] * tint).clip(0, 255) - canvas[rows, columns])
    return canvas


def _shadow(thing: _Placed, direction: float) -> _Placed:
    """The sprite's blurred silhouette, moved a little down and to a side."""
    h, w = thing.pixels.shape[:2]
    reach = max(2, round(0.05 * max(h, w)))
    alpha = Image.fromarray(np.pad(thing.pixels[..., 3], 2 * reach)).filter(ImageFilter.BoxBlur(reach))
    pixels = np.asarray(alpha)[..., None].repeat(4, axis=-1)
    return _Placed(thing.sprite, pixels, thing.x - 2 * reach + round(direction * w), thing.y - reach)


def _develop(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The camera: exposure, a touch of blur and noise."""
    canvas = (canvas - 128) * np.float32(rng.uniform(0.88, 1.08)) + np.float32(128 + rng.uniform(-12, 12))
    if rng.uniform() < 0.25:
        blurred = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        radius = float(rng.uniform(0.3, 0.8))
        canvas = np.asarray(blurred.filter(ImageFilter.GaussianBlur(radius))).astype(np.float32)
    if rng.uniform() < 0.5:
        canvas = canvas + np.float32(rng.uniform(0, 3)) * rng.standard_normal(canvas.shape, np.float32)
    return np.round(canvas.clip(0, 255)).astype(np.uint8)


def _describe(placed: Sequence[_Placed], owner: NDArray[np.int8]) -> tuple[SceneObject, ...]:
    shares = _visible_share(placed, owner)
    objects = []
    for depth, i in enumerate(reversed(range(len(placed)))):
        mask = owner == i
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        bbox = (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)
        sprite = placed[i].sprite
        objects.append(
            SceneObject(
                sprite.category,
                sprite.category_id,
                sprite.color,
                bbox,
                mask,
                int(np.count_nonzero(mask)),
                float(shares[i]),
                depth,
            )
        )
    return tuple(objects)


def coco_categories() -> list[dict[str, Any]]:
    """COCO's records (id, name, supercategory) of the categories that occur."""
    return [dict(c) for c in load_sprites().categories]
