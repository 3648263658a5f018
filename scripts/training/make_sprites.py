"""Render the sprites of the embedded scenes: colour emoji of COCO categories, plus recoloured variants.

Needed only to change the set of sprites; the rendered PNG files are committed. The font is Google's Noto Color
Emoji (Debian: fonts-noto-color-emoji), licensed under the SIL Open Font License 1.1.

    python scripts/training/make_sprites.py --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.color import hsv2rgb, rgb2hsv

from hetexp.files import atomic_write
from hetexp.paths import asset

STRIKE = 109  # the font's only bitmap size
SKINS = ("\U0001f3fb", "\U0001f3fd", "\U0001f3fe")  # three skin tones
FEMALE = "\u200d\u2640\ufe0f"

# category: (COCO id, COCO supercategory, glyphs taken as they are, glyphs that get colours)
SPRITES: dict[str, tuple[int, str, list[str], list[str]]] = {
    "person": (
        1,
        "person",
        [f"{p}{s}{g}" for p in "🧍🚶🏃" for s in SKINS for g in ("", FEMALE)]
        + [f"{p}{s}" for p in "💃🕺" for s in SKINS],
        [],
    ),
    "bicycle": (2, "vehicle", ["🚲"], []),
    "car": (3, "vehicle", ["🚓"], ["🚗", "🚙", "🚘"]),
    "airplane": (5, "vehicle", ["✈", "🛩"], []),
    "bus": (6, "vehicle", ["🚌", "🚍", "🚎"], []),
    "train": (7, "vehicle", ["🚂", "🚆", "🚅"], []),
    "truck": (8, "vehicle", ["🚚", "🚛"], ["🛻"]),
    "boat": (9, "vehicle", ["⛵", "🚤", "🚢"], []),
    "bird": (16, "animal", ["🦅", "🦆", "🦜", "🐓", "🦢"], ["🐦"]),
    "cat": (17, "animal", ["🐈", "🐈\u200d⬛"], []),
    "dog": (18, "animal", ["🐕", "🐩", "🦮"], []),
    "horse": (19, "animal", ["🐎", "🐴"], []),
    "sheep": (20, "animal", ["🐑", "🐏"], []),
    "cow": (21, "animal", ["🐄", "🐃"], []),
    "elephant": (22, "animal", ["🐘"], []),
    "bear": (23, "animal", ["🐻", "🧸"], []),
    "zebra": (24, "animal", ["🦓"], []),
    "giraffe": (25, "animal", ["🦒"], []),
    "umbrella": (28, "accessory", [], ["☂", "🌂"]),
    "banana": (52, "food", ["🍌"], []),
    "apple": (53, "food", [], ["🍎"]),
    "pizza": (59, "food", ["🍕"], []),
    "donut": (60, "food", ["🍩"], []),
    "cake": (61, "food", ["🎂", "🍰", "🧁"], []),
}

# name: (hue in degrees, factor on saturation, exponent on value: below 1 is lighter)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.0, 1.0, 1.0),
    "yellow": (49.0, 1.0, 0.45),
    "green": (130.0, 0.9, 1.1),
    "blue": (214.0, 1.0, 1.0),
    "purple": (282.0, 0.8, 1.0),
}
HUE_WINDOW = 40.0  # degrees about a glyph's own main hue that take the new hue
LEAST_SATURATION = 0.3


def render(glyph: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """One glyph as uint8 RGBA [h, w, 4], cut to its opaque part."""
    canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(canvas).text((20, 20), glyph, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise SystemExit(f"the font has no glyph for {glyph!r}: use Noto Color Emoji or take the glyph out")
    return np.asarray(canvas.crop(box))


def recolor(sprite: np.ndarray, name: str) -> np.ndarray:
    """Move the sprite's main hue to that of the named colour; greys and other hues stay."""
    hsv = rgb2hsv(sprite[..., :3])
    hue, saturation = hsv[..., 0] * 360, hsv[..., 1]
    vivid = (saturation > LEAST_SATURATION) & (sprite[..., 3] > 128)
    counts, edges = np.histogram(hue[vivid], bins=36, range=(0, 360), weights=saturation[vivid])
    main = edges[int(counts.argmax())] + 5
    distance = (hue - main + 180) % 360 - 180
    moved = (np.abs(distance) <= HUE_WINDOW) & (saturation > LEAST_SATURATION)
    new_hue, factor, exponent = COLORS[name]
    hsv[..., 0] = np.where(moved, (new_hue + 0.3 * distance) % 360 / 360, hsv[..., 0])
    hsv[..., 1] = np.where(moved, np.clip(saturation * factor, 0, 1), saturation)
    hsv[..., 2] = np.where(moved, hsv[..., 2] ** exponent, hsv[..., 2])
    rgb = np.round(hsv2rgb(hsv) * 255).astype(np.uint8)
    return np.concatenate([rgb, sprite[..., 3:]], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", required=True, help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", default=asset("sprites"), help="folder of the PNG files and sprites.json")
    args = parser.parse_args()
    font = ImageFont.truetype(args.font, STRIKE)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    entries = []
    for category, (_, _, plain, colored) in SPRITES.items():
        looks = [(g, None) for g in plain] + [(g, c) for g in colored for c in COLORS]
        for glyph, color in looks:
            sprite = render(glyph, font)
            if color is not None:
                sprite = recolor(sprite, color)
            points = "-".join(f"{ord(ch):x}" for ch in glyph)
            file = f"{category}_{points}{'_' + color if color else ''}.png"
            Image.fromarray(sprite).save(out / file, optimize=True)
            entries.append({"file": file, "category": category, "glyph": glyph, "color": color})
    index = {
        "source": "Noto Color Emoji, SIL Open Font License 1.1 (LICENSE.txt); recoloured where a color is named",
        "categories": [{"id": i, "name": n, "supercategory": s} for n, (i, s, _, _) in SPRITES.items()],
        "sprites": entries,
    }
    atomic_write(out / "sprites.json", json.dumps(index, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(entries)} sprites of {len(SPRITES)} categories in {out}")


if __name__ == "__main__":
    main()
