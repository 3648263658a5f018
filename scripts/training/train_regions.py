"""Train the proposal head that finds regions on the embedded detector's frozen backbone.

    python scripts/training/train_regions.py --minutes 4

Targets are the boxes of freshly rendered scenes: cells about an object's centre score high and predict its box. The
statistics that standardise region features are measured at the end and stored with the head.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from make_questions import TRAINING_SEED, rendered
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import DetrForObjectDetection

from hetexp.data.regions.features import (
    RegionHead,
    backbone_map,
    iou,
    normalised,
    proposals,
    raw_features,
)
from hetexp.data.synthetic.candidates import AnnotatedScene, scenes_from_coco
from hetexp.files import atomic_file
from hetexp.paths import asset

HELD_OUT = 64  # scenes of each size that measure recall and the features' statistics


def targets(scenes: list[AnnotatedScene], h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores [B, h·w], boxes [B, h·w, 4] and a mask [B, h·w] of the cells whose score is trained.

    Cells about a box's centre are positive (the smallest object wins), the rest of the box is left out.
    """
    ys, xs = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    cells = torch.stack((xs, ys), -1).flatten(0, 1)
    score = torch.zeros(len(scenes), h * w)
    box = torch.zeros(len(scenes), h * w, 4)
    counted = torch.ones(len(scenes), h * w, dtype=torch.bool)
    for i, scene in enumerate(scenes):
        for thing in sorted(scene.objects, key=lambda t: -t.area):
            b = torch.tensor(thing.box)
            centre, side = (b[:2] + b[2:]) / 2, b[2:] - b[:2]
            inside = ((cells > b[:2]) & (cells < b[2:])).all(1)
            reach = torch.maximum(side / 6, torch.tensor([0.75 / w, 0.75 / h]))
            near = ((cells - centre).abs() <= reach).all(1)
            counted[i, inside & (score[i] == 0)] = False
            counted[i, near], score[i, near], box[i, near] = True, 1.0, b
    return score, box, counted


def loss_of(head: RegionHead, maps: Tensor, goal: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, float]:
    """Return the loss (score and overlap) and the mean overlap of positive cells."""
    logits, boxes = head(maps)
    score, box, counted = goal
    positive = score > 0
    pair = iou(boxes[positive][:, None], box[positive][:, None])[:, 0, 0]
    distance = (boxes[positive] - box[positive]).abs().sum(-1).mean()
    # The score learns the overlap its box reaches, so that suppression keeps the best of several boxes.
    aim = torch.zeros_like(score)
    aim[positive] = pair.detach().clamp(0, 1)
    scores = functional.binary_cross_entropy_with_logits(logits[counted], aim[counted])
    return 4 * scores + (1 - pair).mean() + distance, float(pair.detach().mean())


@torch.no_grad()
def recall(head: RegionHead, maps: Tensor, scenes: list[AnnotatedScene], n: int) -> float:
    """Return the share of objects that one of the image's n regions overlaps by at least a half."""
    hits, total = 0, 0
    boxes, _ = proposals(head, maps, n)
    for scene, found in zip(scenes, boxes, strict=True):
        if scene.objects:
            best = iou(torch.tensor([t.box for t in scene.objects]), found).max(1).values
            hits, total = hits + int((best >= 0.5).sum()), total + len(best)
    return hits / max(1, total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--detr", type=Path, default=Path(asset("detr")))
    parser.add_argument("--out", type=Path, default=Path(asset("vqa")) / "region_head.safetensors")
    parser.add_argument("--work", type=Path, help="folder that keeps rendered training scenes")
    parser.add_argument("--init", type=Path, help="head to start from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = DetrForObjectDetection.from_pretrained(args.detr).eval().requires_grad_(False)
    groups = grouped_maps(model, args.scenes, TRAINING_SEED + 50_000_000 + args.seed, args.work)
    head = RegionHead(next(iter(groups.values()))[0].shape[1])
    head.out.bias = nn.Parameter(torch.tensor([-3.0, 1.0, 1.0, 1.0, 1.0]))  # rarely an object, boxes of some cells
    if args.init:
        head = RegionHead.load(args.init).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=1e-4)
    goals = {key: targets(scenes, *maps.shape[2:]) for key, (maps, scenes, _) in groups.items()}
    started, budget, step = time.monotonic(), args.minutes * 60, 0
    generator = torch.Generator().manual_seed(args.seed)
    keys = sorted(groups)
    weights = torch.tensor([float(len(groups[k][1])) for k in keys])
    while (spent := time.monotonic() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * max(0.01, 0.5 * (1 + math.cos(math.pi * spent / budget)))
        key = keys[int(torch.multinomial(weights, 1, generator=generator))]
        maps = groups[key][0]
        chosen = torch.randint(0, max(1, len(maps) - HELD_OUT), (24,), generator=generator)
        score, box, counted = (goal[chosen] for goal in goals[key])
        loss, overlap = loss_of(head, maps[chosen].float(), (score, box, counted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{spent / 60:.1f} min step {step} loss {float(loss.detach()):.3f} overlap {overlap:.3f}", flush=True)
    head.eval().requires_grad_(False)
    collected = []
    for maps, scenes, pixels in groups.values():
        held = slice(max(0, len(scenes) - HELD_OUT), None)
        share = recall(head, maps[held].float(), scenes[held], 36)
        print(f"{tuple(maps.shape[2:])}: recall of held-out objects by 36 regions {share:.3f}", flush=True)
        boxes, scores = proposals(head, maps[held].float(), 36)
        collected.append(raw_features(maps[held].float(), pixels, boxes, scores).flatten(0, 1))
    everything = torch.cat(collected)
    head.mean, head.scale = everything.mean(0), everything.std(0).clamp(min=1e-3)
    with atomic_file(args.out) as temporary:
        save_file({k: v.contiguous() for k, v in head.state_dict().items()}, temporary)


@torch.no_grad()
def grouped_maps(
    model: Any, count: int, seed: int, work: Path | None
) -> dict[tuple[int, int], tuple[Tensor, list[AnnotatedScene], Tensor]]:
    """Render scenes and return, per image size, float16 maps, the scenes, and the last scenes' pixels."""
    parts: dict[tuple[int, int], tuple[list[Tensor], list[AnnotatedScene], list[Tensor]]] = {}
    for images, coco in rendered(count, seed, work):
        for scene, image in zip(scenes_from_coco(coco), images, strict=True):
            maps, scenes, pixels = parts.setdefault((scene.height, scene.width), ([], [], []))
            pixel = normalised(image)
            maps.append(backbone_map(model, pixel[None])[0].half())
            scenes.append(scene)
            pixels[:] = [*pixels[1 - HELD_OUT :], pixel]
    return {k: (torch.stack(m), s, torch.stack(p)) for k, (m, s, p) in parts.items()}


if __name__ == "__main__":
    main()
