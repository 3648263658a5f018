"""Pre-train the embedded DETR's backbone on rendered scenes: what does each cell of the feature grid show?

    python scripts/training/pretrain_backbone.py --work WORK --minutes 12

A small ResNet with trainable batch normalisation learns, per stride-16 cell, the class of the object that fills most of
it (or background), which categories occur in it at all, and which of its 4 x 4 patches that object covers. DETR
freezes batch normalisation, so this is the only phase in which it is learnt. Writes WORK/backbone.safetensors and the
training scenes that scripts/training/train_detector.py uses as well;
backbone.json beside it says how long it was trained.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoBackbone, ResNetConfig

from hetexp.data.regions.features import MEAN, STD
from hetexp.data.synthetic.sprites import load_sprites
from hetexp.data.synthetic.training_arrays import Grid, TrainingArrays, render_training_arrays
from hetexp.files import atomic_file, atomic_write

log = logging.getLogger("train_detector")
FIELDS = ("images", "labels", "boxes", "owners")
CELL = 4  # patches along a cell's side
FILLS = 2  # patches of a cell that an object must cover to be its majority


def backbone_config() -> ResNetConfig:
    """A basic ResNet of output stride 16 with 128 channels."""
    return ResNetConfig(
        embedding_size=32,
        hidden_sizes=[64, 128],
        depths=[2, 3],
        layer_type="basic",
        downsample_in_first_stage=True,
        out_features=["stage2"],
    )


def load_arrays(work: Path, seed: int, count: int, workers: int) -> dict[Grid, TrainingArrays]:
    """Training scenes by input size: read from the work folder, or rendered and kept there."""
    done = work / "pool.json"
    key = {"seed": seed, "count": count}
    if done.is_file() and (found := json.loads(done.read_text(encoding="utf-8")))["key"] == key:
        return {
            (h, w): TrainingArrays(*(np.load(work / f"pool_{h}x{w}_{f}.npy", mmap_mode="r") for f in FIELDS))
            for h, w in found["sizes"]
        }
    log.info("rendering %d training scenes", count)
    work.mkdir(parents=True, exist_ok=True)
    arrays = render_training_arrays(seed, 0, count, workers)
    for (h, w), pool in arrays.items():
        for field in FIELDS:
            np.save(work / f"pool_{h}x{w}_{field}.npy", getattr(pool, field))
    atomic_write(done, json.dumps({"key": key, "sizes": list(arrays)}))
    return arrays


def pixel_values(images: np.ndarray, flip: bool, device: torch.device) -> Tensor:
    """Normalised network input [N, 3, h, w] of uint8 images [N, h, w, 3]."""
    x = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)  # stays channels-last
    if flip:
        x = x.flip(3)
    scale = 255 * torch.tensor(STD, device=device).view(1, 3, 1, 1)
    return (x - 255 * torch.tensor(MEAN, device=device).view(1, 3, 1, 1)) / scale


def batches(
    arrays: dict[Grid, TrainingArrays], size: int, rng: np.random.Generator
) -> Iterator[tuple[Grid, np.ndarray]]:
    """Epoch after epoch of shuffled batches, each of one input size, as sorted row numbers."""
    while True:
        epoch = []
        for grid, pool in arrays.items():
            rows = rng.permutation(len(pool))
            epoch += [(grid, np.sort(rows[i : i + size])) for i in range(0, len(pool) - size + 1, size)]
        if not epoch:
            raise SystemExit(f"no input size has {size} scenes: ask for more scenes or a smaller batch")
        for i in rng.permutation(len(epoch)):
            yield epoch[i]


def cell_targets(labels: Tensor, owners: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """What each cell shows.

    Args:
        labels: [N, 6], category number of each object or -1.
        owners: [N, 4 h, 4 w], number of the object that each patch shows or -1.
        classes: number of categories.

    Returns:
        majority [N, h, w] (`classes` for background), present [N, classes, h, w], covered [N, 16, h, w], both 0 or 1.
    """
    n, height, width = owners.shape
    h, w = height // CELL, width // CELL
    patches = owners.view(n, h, CELL, w, CELL).permute(0, 2, 4, 1, 3).reshape(n, CELL * CELL, h, w)
    counts = torch.stack([(patches == k).sum(1) for k in range(labels.shape[1])], 1)  # [N, 6, h, w]
    most, main = counts.max(1)
    filled = most >= FILLS
    majority = labels.gather(1, main.flatten(1)).view(n, h, w).masked_fill(~filled, classes)
    onehot = nn.functional.one_hot(labels.clamp(min=0), classes) * (labels >= 0)[..., None]  # [N, 6, classes]
    present = torch.einsum("nkhw,nkc->nchw", (counts > 0).float(), onehot.float()).clamp(max=1)
    covered = ((patches == main[:, None]) & filled[:, None]).float()
    return majority, present, covered


def pretrain(
    arrays: dict[Grid, TrainingArrays], args: argparse.Namespace, device: torch.device
) -> tuple[nn.Module, int]:
    """Train for `args.minutes`; the learning rate ends at zero on time. Returns the backbone and the images seen."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    classes = len(load_sprites().names)
    backbone = AutoBackbone.from_config(backbone_config())
    if args.init is not None:
        backbone.load_state_dict(load_file(args.init))
    head = nn.Conv2d(backbone.channels[-1], 2 * classes + 1 + CELL * CELL, 1)
    model = nn.ModuleList([backbone, head]).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.02)
    start, last, seen = time.monotonic(), 0.0, 0
    for step, (grid, rows) in enumerate(batches(arrays, args.batch, rng)):
        progress = (time.monotonic() - start) / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, progress / 0.03 + 0.01) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = rate
        pool, flip = arrays[grid], bool(rng.integers(2))
        owners = pool.owners[rows][:, :, ::-1] if flip else pool.owners[rows]
        majority, present, covered = cell_targets(
            torch.from_numpy(pool.labels[rows]).long().to(device),
            torch.from_numpy(np.ascontiguousarray(owners)).to(device),
            classes,
        )
        with torch.autocast(device.type, torch.bfloat16):
            out = head(backbone(pixel_values(pool.images[rows], flip, device)).feature_maps[-1])
        logits, seen_classes, patches = out.float().split([classes + 1, classes, CELL * CELL], 1)
        bce = nn.functional.binary_cross_entropy_with_logits
        loss_class = nn.functional.cross_entropy(logits, majority)
        loss_patch = bce(patches, covered)
        loss = loss_class + loss_patch + 4 * bce(seen_classes, present)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(rows)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            inside = majority < classes
            hits = (logits.argmax(1) == majority)[inside].float().mean().item()
            speed = seen / (last - start + 1e-9)
            log.info(
                "backbone %3.0f %% step %d loss %.3f class %.3f patch %.3f accuracy in objects %.3f, %.0f images/s",
                100 * progress, step, loss.item(), loss_class.item(), loss_patch.item(), hits, speed,
            )  # fmt: skip
    return backbone.eval(), seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the scenes and the trained backbone")
    parser.add_argument("--minutes", type=float, default=12.0, help="training time, without rendering")
    parser.add_argument("--scenes", type=int, default=24000, help="training scenes to render")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--init", type=Path, help="go on from the weights of an earlier backbone.safetensors")
    parser.add_argument("--seed", type=int, default=7, help="names the training scenes and the initial weights")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if args.device == "auto" else args.device)
    backbone, images = pretrain(load_arrays(args.work, args.seed, args.scenes, args.workers), args, device)
    rounds = json.loads(args.init.with_suffix(".json").read_text(encoding="utf-8")) if args.init is not None else []
    rounds.append({"minutes": args.minutes, "threads": args.threads, "images": images, "lr": args.lr})
    atomic_write(args.work / "backbone.json", json.dumps(rounds))
    with atomic_file(args.work / "backbone.safetensors") as temporary:
        save_file({k: v.contiguous().cpu() for k, v in backbone.state_dict().items()}, temporary)
    log.info("wrote %s", args.work / "backbone.safetensors")


if __name__ == "__main__":
    main()
