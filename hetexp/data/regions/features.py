"""Regions of an image in the manner of bottom-up attention: object proposals, parts and background with features.

A small convolutional head on the embedded detector's frozen backbone scores every cell of its feature map and
predicts a box there. The best boxes after non-maximum suppression, then the quarters of the image and the whole of
it, are the regions. A region's features are backbone features averaged over its box, colour statistics of its
middle, and its score. Only the image is read, so a photograph of one's own works like an embedded scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from hetexp.errors import CheckpointError, InputError
from hetexp.paths import asset

if TYPE_CHECKING:
    from transformers import DetrForObjectDetection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OVERLAP = 0.5  # intersection over union above which the weaker of two proposals goes
SHORT_SIDE, LONG_SIDE = 192, 256  # every image is resized to them, as for the embedded detector
STRIDE = 16
COLOURS = 9  # mean and spread of red, green, blue over the middle of the box; mean over its core
# Background regions every image has: four quarters and the whole image.
FIXED = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0))


@dataclass(frozen=True)
class RegionFeatures:
    """Features [R, D] and boxes [R, 4] (x1, y1, x2, y2 in units of the image's sides) of one image."""

    features: Tensor
    boxes: Tensor


class RegionHead(nn.Module):
    """Scores the cells of a backbone map [B, C, h, w] and predicts a box at each.

    Attributes:
        mean: of the region features [D], by which they are standardised.
        scale: their standard deviations [D].
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(width, 5, 1)
        self.register_buffer("mean", torch.zeros(channels + COLOURS + 1))
        self.register_buffer("scale", torch.ones(channels + COLOURS + 1))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits [B, h·w] and boxes [B, h·w, 4] in units of the image's sides."""
        out = self.out(self.trunk(maps))
        _, _, h, w = out.shape
        ys, xs = torch.meshgrid(
            torch.arange(h, device=out.device) + 0.5, torch.arange(w, device=out.device) + 0.5, indexing="ij"
        )
        reach = out[:, 1:].clamp(-6.0, 4.0).exp()  # distances to the four sides, in cells
        boxes = torch.stack((xs - reach[:, 0], ys - reach[:, 1], xs + reach[:, 2], ys + reach[:, 3]), dim=-1)
        boxes = boxes / out.new_tensor((w, h, w, h))
        return out[:, 0].flatten(1), boxes.flatten(1, 2)

    @classmethod
    def load(cls, path: Path | None = None) -> RegionHead:
        """Load a trained head, by default the embedded one.

        Raises:
            CheckpointError: if the file is missing or is not such a head.
        """
        path = path or Path(asset("vqa")) / "region_head.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"region head {path} does not exist: train one with scripts/training/train_regions.py"
            )
        state = load_file(path)
        try:
            width, channels = state["trunk.0.weight"].shape[:2]
            head = cls(channels, width)
            head.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} does not hold a region head: {error}") from error
        return head.eval().requires_grad_(False)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Return intersection over union [..., N, M] of boxes [..., N, 4] and [..., M, 4]."""
    low = torch.maximum(one[..., :, None, :2], other[..., None, :, :2])
    high = torch.minimum(one[..., :, None, 2:], other[..., None, :, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    area = (one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1)
    area_other = (other[..., 2:] - other[..., :2]).clamp(min=0).prod(-1)
    return inside / (area[..., :, None] + area_other[..., None, :] - inside).clamp(min=1e-9)


def suppress(boxes: Tensor, scores: Tensor, wanted: int, overlap: float = OVERLAP) -> Tensor:
    """Return the indices [k ≤ wanted] that greedy non-maximum suppression keeps of one image, best first."""
    if wanted < 1:
        return torch.zeros(0, dtype=torch.long)
    order = scores.argsort(descending=True, stable=True)
    close = (iou(boxes[order], boxes[order]) > overlap).cpu().numpy()
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for i in range(len(order)):
        if alive[i]:
            kept.append(i)
            alive &= ~close[i]
            if len(kept) == wanted:
                break
    return order[torch.tensor(kept, dtype=torch.long)]


def pool(maps: Tensor, boxes: Tensor, points: int = 5) -> Tensor:
    """Sample maps [B, C, h, w] bilinearly on a grid inside each box [B, R, 4]: [B, R, points², C]."""
    batch, regions = boxes.shape[:2]
    steps = (torch.arange(points, dtype=maps.dtype, device=maps.device) + 0.5) / points
    low, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    x = low[..., :1] + size[..., :1] * steps  # [B, R, points]
    y = low[..., 1:] + size[..., 1:] * steps
    grid = torch.stack((x[:, :, None, :].expand(-1, -1, points, -1), y[..., None].expand(-1, -1, -1, points)), -1)
    grid = grid.reshape(batch, regions, points * points, 2) * 2 - 1
    sampled = functional.grid_sample(maps, grid, align_corners=False, padding_mode="border")
    return sampled.permute(0, 2, 3, 1)


def _shrunk(boxes: Tensor, share: float) -> Tensor:
    """Return boxes about the same centres with sides `share` times as long."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) * share / 2
    return torch.cat((centre - half, centre + half), -1)


def backbone_map(model: DetrForObjectDetection, pixels: Tensor) -> Tensor:
    """Return the backbone's last feature map [B, C, h, w] of normalised pixels [B, 3, H, W]."""
    mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=pixels.device)
    features: Tensor = model.model.backbone(pixels, mask)[-1][0]
    return features


def proposals(head: RegionHead, maps: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return boxes [B, n, 4] and scores [B, n] of the regions of each image, fixed ones last (score 0)."""
    logits, cells = head(maps)
    scores, cells = logits.sigmoid(), cells.clamp(0, 1)
    fixed = torch.tensor(FIXED)[-min(len(FIXED), n) :]
    boxes, confidences = [], []
    for score, cell in zip(scores, cells, strict=True):
        kept = suppress(cell, score, n - len(fixed))
        # A map with too few distinct boxes is filled up with its best ones again.
        kept = kept[torch.arange(n - len(fixed)) % len(kept)] if len(kept) else kept
        boxes.append(torch.cat((cell[kept], fixed)))
        confidences.append(torch.cat((score[kept], torch.zeros(len(fixed)))))
    return torch.stack(boxes), torch.stack(confidences)


def raw_features(maps: Tensor, pixels: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return region features [B, R, C + 10] before standardisation."""
    content = pool(maps, boxes).mean(2)
    small = functional.avg_pool2d(pixels, 2)
    middle, core = pool(small, _shrunk(boxes, 0.7), 7), pool(small, _shrunk(boxes, 0.3), 5)
    colours = (middle.mean(2), middle.std(2, unbiased=False), core.mean(2))
    return torch.cat((content, *colours, scores[..., None]), -1)


@torch.no_grad()
def extract_batch(
    pixels: Tensor, model: DetrForObjectDetection, head: RegionHead, n: int = 36
) -> tuple[Tensor, Tensor]:
    """Return features [B, n, D] and boxes [B, n, 4] of normalised pixels [B, 3, H, W]."""
    maps = backbone_map(model, pixels)
    boxes, scores = proposals(head, maps, n)
    features = (raw_features(maps, pixels, boxes, scores) - head.mean) / head.scale
    return features, boxes


def normalised(image: Image.Image) -> Tensor:
    """Return pixels [3, H, W] in ImageNet's normalisation: short side 192, or long side 256 where that is smaller.

    Raises:
        InputError: if a side of the image would have fewer than two cells of the backbone.
    """
    width, height = image.size
    scale = min(SHORT_SIDE / min(width, height), LONG_SIDE / max(width, height)) if min(width, height) else 0.0
    size = (round(width * scale), round(height * scale))
    if min(size) < 2 * STRIDE:
        raise InputError(
            f"image is {width}x{height} pixels and would be resized to {size[0]}x{size[1]}; regions need at least "
            f"{2 * STRIDE} on each side: crop it to a less extreme shape"
        )
    image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.float32) / 255
    array = (array - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def extract(
    image: Image.Image, model: DetrForObjectDetection, n: int = 36, head: RegionHead | None = None
) -> RegionFeatures:
    """Compute the regions of one image; the same image and model give the same regions.

    Args:
        image: any PIL image, at most eight times as long as wide.
        model: the embedded DETR, or another with the same backbone.
        n: number of regions, at least 1.
        head: proposal head; the embedded one by default.

    Raises:
        InputError: if `n` or the image is too small, or the head belongs to another backbone.
    """
    if n < 1:
        raise InputError(f"n is {n}, an image needs at least 1 region")
    head = head or RegionHead.load()
    channels = int(model.model.backbone.intermediate_channel_sizes[-1])
    if head.mean.shape[0] != channels + COLOURS + 1:
        raise InputError(
            f"the region head was trained on {head.mean.shape[0] - COLOURS - 1} backbone channels, this model's "
            f"backbone has {channels}: use the embedded DETR, or train a head with scripts/training/train_regions.py"
        )
    features, boxes = extract_batch(normalised(image)[None], model, head, n)
    return RegionFeatures(features[0], boxes[0])
