"""Make the embedded question set: questions over the validation scenes and their region features.

    python scripts/training/make_questions.py --blind-scenes 8000

Writes into hetexp/assets/vqa: questions.json, recipe.json (seed, counts and blind accuracies), and the regions of
all validation scenes. `--only questions|regions` makes a part of it.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DetrForObjectDetection

from hetexp.data.regions import Regions, write_compact
from hetexp.data.regions.features import RegionHead, extract_batch, normalised
from hetexp.data.synthetic.candidates import scenes_from_coco
from hetexp.data.synthetic.questions import (
    answer_list,
    answers_by_group,
    blind_accuracy,
    generate,
)
from hetexp.data.synthetic.scenes import coco_categories, render_scene, scene_rng
from hetexp.data.synthetic.sprites import load_sprites
from hetexp.data.vqa import write_items
from hetexp.files import atomic_file, atomic_write
from hetexp.paths import asset

TRAINING_SEED = 1_000_000_000  # scenes of this seed and above are never validation scenes
REGIONS = 36


def regions_of(
    images: list[Image.Image], ids: list[str], model: DetrForObjectDetection, head: RegionHead
) -> list[tuple[str, Regions]]:
    """Compute the regions of images, those of one size together."""
    pixels = [normalised(image) for image in images]
    by_size: dict[torch.Size, list[int]] = {}
    for i, pixel in enumerate(pixels):
        by_size.setdefault(pixel.shape, []).append(i)
    found: dict[int, Regions] = {}
    for rows in by_size.values():
        for start in range(0, len(rows), 16):
            chosen = rows[start : start + 16]
            features, boxes = extract_batch(torch.stack([pixels[i] for i in chosen]), model, head, REGIONS)
            for i, feature, box in zip(chosen, features.numpy(), boxes.numpy(), strict=True):
                found[i] = Regions(feature, box, *images[i].size)
    return [(ids[i], found[i]) for i in range(len(images))]


def rendered(
    count: int, seed: int, cache: Path | None = None, chunk: int = 400
) -> Iterator[tuple[list[Image.Image], dict[str, Any]]]:
    """Yield training scenes in chunks: images, compressed like the shipped ones, and a COCO dictionary without masks.

    With `cache`, a chunk found in that folder is read instead of rendered, and a new one is kept there.
    """
    for start in range(0, count, chunk):
        file = None if cache is None else cache / f"scenes_{seed}_{start}_{min(start + chunk, count)}"
        if file is None or not file.with_suffix(".json").is_file():
            packed, coco = _render_chunk(range(start, min(start + chunk, count)), seed)
            if file is not None:
                with atomic_file(file) as temporary:
                    jpegs = {str(i): torch.frombuffer(bytearray(b), dtype=torch.uint8) for i, b in packed.items()}
                    save_file(jpegs, temporary)
                atomic_write(file.with_suffix(".json"), json.dumps(coco))
        else:
            packed = {int(i): t.numpy().tobytes() for i, t in load_file(file).items()}
            coco = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        yield [Image.open(io.BytesIO(packed[record["id"]])) for record in coco["images"]], coco


def _render_chunk(indices: range, seed: int) -> tuple[dict[int, bytes], dict[str, Any]]:
    """Return JPEG bytes by scene index, and the scenes' COCO dictionary."""
    packed: dict[int, bytes] = {}
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": coco_categories()}
    for index in indices:
        scene = render_scene(scene_rng(seed, index))
        buffer = io.BytesIO()
        Image.fromarray(scene.image).save(buffer, "JPEG", quality=92)
        packed[index] = buffer.getvalue()
        height, width = scene.image.shape[:2]
        coco["images"].append({"id": index, "file_name": f"t{index:06d}.jpg", "width": width, "height": height})
        for thing in scene.objects:
            coco["annotations"].append(
                {
                    "id": index * 16 + thing.depth,
                    "image_id": index,
                    "category_id": thing.category_id,
                    "bbox": list(thing.bbox),
                    "area": thing.area,
                    "color": thing.color,
                }
            )
    return packed, coco


def answers_of(coco: dict[str, Any]) -> list[str]:
    """Return the answer vocabulary: yes, no, counts, all classes, all colours of the sprites."""
    colors = {sprite.color for group in load_sprites().by_category.values() for sprite in group if sprite.color}
    return answer_list(coco, sorted(colors))


def scene_pool(count: int, seed: int, detr: Path, work: Path) -> Path:
    """Render a pool of training scenes with their regions into a subfolder of `work`, unless it is there; return it."""
    folder = work / f"pool_{seed}_{count}"
    if (folder / "annotations.json").is_file():
        return folder
    model = DetrForObjectDetection.from_pretrained(detr).eval().requires_grad_(False)
    head = RegionHead.load()
    whole: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    regions: list[tuple[str, Regions]] = []
    for images, coco in rendered(count, TRAINING_SEED + seed, work):
        regions += regions_of(images, [Path(i["file_name"]).stem for i in coco["images"]], model, head)
        whole["images"] += coco["images"]
        whole["annotations"] += coco["annotations"]
        whole["categories"] = coco["categories"]
        print(f"pool: {len(whole['images'])} of {count} scenes", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_compact(folder / "regions.safetensors", regions)
    atomic_write(folder / "annotations.json", json.dumps(whole))
    return folder


def make_questions(count: int, seed: int, blind_scenes: int, out: Path, work: Path | None) -> None:
    """Write questions.json and recipe.json; blind guessers learn from other scenes' questions."""
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text(encoding="utf-8"))
    names = sorted(c["name"] for c in coco["categories"])
    questions = generate(scenes_from_coco(coco), names, count, seed)
    training = [s for _, part in rendered(blind_scenes, TRAINING_SEED, work) for s in scenes_from_coco(part)]
    blind = blind_accuracy(generate(training, names, 6 * blind_scenes, seed + 1, tries=8, n_candidates=24), questions)
    groups = {kind: dict(c.most_common()) for kind, c in answers_by_group(questions).items()}
    recipe = {
        "seed": seed,
        "questions": count,
        "made": len(questions),
        "blind_training_scenes": blind_scenes,
        "blind_accuracy": {key: round(value, 4) for key, value in blind.items()},
        "answers": groups,
    }
    write_items(questions, out / "questions.json")
    atomic_write(out / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    print(json.dumps(recipe, indent=1))


def make_regions(detr: Path, out: Path) -> None:
    """Write the regions of the validation scenes, image by image as a user's own would be."""
    folder = Path(asset("scenes")) / "val"
    coco = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    model = DetrForObjectDetection.from_pretrained(detr).eval().requires_grad_(False)
    head = RegionHead.load()
    regions: list[tuple[str, Regions]] = []
    for record in coco["images"]:
        with Image.open(folder / "images" / Path(record["file_name"]).name) as image:
            regions += regions_of([image], [Path(record["file_name"]).stem], model, head)
    write_compact(out / "regions.safetensors", regions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blind-scenes", type=int, default=8000, help="training scenes the blind guessers see")
    parser.add_argument("--detr", type=Path, default=Path(asset("detr")), help="DETR whose backbone gives features")
    parser.add_argument("--out", type=Path, default=Path(asset("vqa")))
    parser.add_argument("--work", type=Path, help="folder that keeps rendered training scenes")
    parser.add_argument("--only", choices=("questions", "regions"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    if args.only != "regions":
        make_questions(args.questions, args.seed, args.blind_scenes, args.out, args.work)
    if args.only != "questions":
        make_regions(args.detr, args.out)


if __name__ == "__main__":
    main()
