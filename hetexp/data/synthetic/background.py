"""Backgrounds of the rendered scenes, all from a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.float32]  # [height, width, 3], 0..255
Painter = Callable[[np.random.Generator, int, int], Picture]


def paint_background(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A background of a random kind with a little fine grain, [height, width, 3]."""
    painter = _PAINTERS[int(rng.integers(len(_PAINTERS)))]
    picture = painter(rng, width, height)
    grain = smooth_noise(rng, width, height, cell=int(rng.integers(2, 9)))
    return np.clip(picture + rng.uniform(0, 10) * grain[..., None], 0, 255).astype(np.float32)


def smooth_noise(rng: np.random.Generator, width: int, height: int, cell: int) -> NDArray[np.float32]:
    """Noise in -1..1 that varies over about `cell` pixels, [height, width]."""
    shape = (height // cell + 2, width // cell + 2)
    coarse = Image.fromarray(rng.uniform(-1, 1, shape).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _color(rng: np.random.Generator, light: tuple[float, float] = (70, 235)) -> Picture:
    """A muted colour: grey of some lightness plus a tint."""
    return (rng.uniform(*light) + rng.uniform(-45, 45, 3)).clip(15, 250).astype(np.float32)


def _mix(weight: NDArray[np.floating], first: Picture, second: Picture) -> Picture:
    """`first` where the weight [height, width] is 0, `second` where it is 1."""
    return first + weight.clip(0, 1)[..., None] * (second - first)


def _grid(width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row and column coordinates as broadcastable float arrays."""
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]


def _ramp(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    """Pixel position along a random direction, in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = _grid(width, height)
    return (np.cos(angle) * (x - width / 2) + np.sin(angle) * (y - height / 2)).astype(np.float32)


def _gradient(rng: np.random.Generator, width: int, height: int) -> Picture:
    weight = _ramp(rng, width, height) / max(width, height) + 0.5
    return _mix(weight, _color(rng), _color(rng))


def _spotlight(rng: np.random.Generator, width: int, height: int) -> Picture:
    y, x = _grid(width, height)
    cy, cx = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    distance = np.sqrt((y - cy) ** 2 + (x - cx) ** 2) / (rng.uniform(0.6, 1.1) * max(width, height))
    return _mix(distance.astype(np.float32), _color(rng, (140, 240)), _color(rng, (40, 140)))


def _clouds(rng: np.random.Generator, width: int, height: int) -> Picture:
    noise = np.zeros((height, width), np.float32)
    for cell, strength in ((int(rng.integers(48, 97)), 0.6), (24, 0.25), (10, 0.15)):
        noise += strength * smooth_noise(rng, width, height, cell)
    return _mix(0.5 + 0.8 * noise, _color(rng), _color(rng))


def _stripes(rng: np.random.Generator, width: int, height: int) -> Picture:
    period = rng.uniform(10, 70)
    wave = np.sin(2 * np.pi * _ramp(rng, width, height) / period)
    sharpness = rng.uniform(1, 8)
    first = _color(rng)
    second = first + rng.uniform(-60, 60, 3).astype(np.float32)
    return _mix(0.5 + 0.5 * np.tanh(sharpness * wave), first, second)


def _tiles(rng: np.random.Generator, width: int, height: int) -> Picture:
    side = rng.uniform(16, 60)
    first, second = _ramp(rng, width, height), _ramp(rng, width, height)
    odd = (np.floor(first / side) + np.floor(second / side)) % 2
    color = _color(rng)
    return _mix(odd, color, color + rng.uniform(-45, 45, 3).astype(np.float32))


def _landscape(rng: np.random.Generator, width: int, height: int) -> Picture:
    """Sky over ground with a soft, wavy horizon."""
    y, x = _grid(width, height)
    skies = np.array([[120, 180, 235], [185, 215, 240], [250, 205, 160], [200, 200, 205]], np.float32)
    grounds = np.array([[110, 160, 80], [190, 170, 120], [130, 130, 130], [225, 228, 232], [80, 130, 160]], np.float32)
    sky = skies[rng.integers(len(skies))] + rng.uniform(-20, 20, 3).astype(np.float32)
    ground = grounds[rng.integers(len(grounds))] + rng.uniform(-25, 25, 3).astype(np.float32)
    horizon = height * rng.uniform(0.3, 0.65)
    hills = rng.uniform(0, 14) * np.sin(2 * np.pi * (x / rng.uniform(80, 300) + rng.uniform()))
    below = (y - horizon - hills) / rng.uniform(1, 6)
    haze = 25 * (1 - (np.abs(y - horizon) / height))[..., None]
    texture = 10 * smooth_noise(rng, width, height, 12)[..., None] * (below > 0)[..., None]
    return _mix(below.astype(np.float32), sky, ground) + haze.astype(np.float32) + texture


def _room(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A wall with boards or paper, over a table."""
    y, x = _grid(width, height)
    edge = height * rng.uniform(0.55, 0.8)
    wall, table = _color(rng, (140, 230)), _color(rng, (70, 180))
    paper = 8 * np.sign(np.sin(2 * np.pi * x / rng.uniform(18, 60)))[..., None]
    grain = 9 * smooth_noise(rng, width, max(2, height // 8), 6)
    wood = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR))[..., None]
    below = np.broadcast_to((y > edge), (height, width)).astype(np.float32)
    shade = np.where(below > 0, 0.0, -15 * np.exp(-(edge - y) / 12))[..., None]
    picture = _mix(below, wall, table) + np.where(below[..., None] > 0, wood, paper) + shade
    return picture.astype(np.float32)


_PAINTERS: tuple[Painter, ...] = (
    _gradient,
    _spotlight,
    _clouds,
    _clouds,
    _stripes,
    _tiles,
    _landscape,
    _landscape,
    _landscape,
    _room,
    _room,
)
