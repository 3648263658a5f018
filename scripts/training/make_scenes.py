"""Render the embedded validation scenes into hetexp/assets/scenes/val (images and COCO annotations).

python scripts/training/make_scenes.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hetexp.data.synthetic.coco_format import write_coco
from hetexp.data.synthetic.scenes import VALIDATION_SEED, render_scene, scene_rng
from hetexp.paths import asset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(asset("scenes")) / "val", help="folder to write")
    parser.add_argument("--count", type=int, default=400, help="number of scenes")
    parser.add_argument("--seed", type=int, default=VALIDATION_SEED, help="names the scenes; training uses others")
    args = parser.parse_args()
    scenes = (render_scene(scene_rng(args.seed, index)) for index in range(args.count))
    content = write_coco(args.out, scenes, f"hetexp embedded scenes, seed {args.seed}")
    areas = [a["area"] for a in content["annotations"]]
    small, large = sum(a < 32**2 for a in areas), sum(a > 96**2 for a in areas)
    print(f"{args.count} scenes, {len(areas)} objects ({small} small, {large} large) in {args.out}")


if __name__ == "__main__":
    main()
