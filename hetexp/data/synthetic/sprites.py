"""The sprites that scenes are composed from: small RGBA pictures of COCO categories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from hetexp.errors import DataError
from hetexp.paths import asset


@dataclass(frozen=True)
class Sprite:
    """One look of a category; `color` is its name where the whole thing has one, `area` its opaque pixels."""

    category: str
    category_id: int
    color: str | None
    image: Image.Image
    area: int


@dataclass(frozen=True)
class SpriteSet:
    """All sprites by category name, and the COCO category records."""

    categories: tuple[dict[str, Any], ...]
    by_category: dict[str, tuple[Sprite, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Category names in the order of their COCO ids."""
        return tuple(c["name"] for c in self.categories)


@cache
def load_sprites(folder: str | None = None) -> SpriteSet:
    """Read a folder of sprites, by default the embedded one.

    Raises:
        DataError: if the index or one of its pictures is missing or damaged.
    """
    root = Path(folder) if folder is not None else Path(asset("sprites"))
    try:
        index = json.loads((root / "sprites.json").read_text(encoding="utf-8"))
        ids = {c["name"]: int(c["id"]) for c in index["categories"]}
        found: dict[str, list[Sprite]] = {name: [] for name in ids}
        for entry in index["sprites"]:
            with Image.open(root / entry["file"]) as opened:
                image = opened.convert("RGBA")
            area = sum(image.getchannel("A").histogram()[128:])
            name = entry["category"]
            found[name].append(Sprite(name, ids[name], entry["color"], image, area))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the sprites in {root} cannot be read ({error}): run scripts/training/make_sprites.py"
        ) from error
    return SpriteSet(tuple(index["categories"]), {name: tuple(sprites) for name, sprites in found.items()})
