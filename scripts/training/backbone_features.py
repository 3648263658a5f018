"""What a frozen backbone makes of the training scenes, computed once and kept in the work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pretrain_backbone import backbone_config, log, pixel_values
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoBackbone, AutoModelForObjectDetection

from hetexp.data.synthetic.training_arrays import Grid, TrainingArrays
from hetexp.files import atomic_file

Features = dict[tuple[Grid, bool], NDArray[np.float16]]  # by input size and mirrored or not: [N, 128, h/16, w/16]


def backbone_weights(source: Path) -> dict[str, Tensor]:
    """Weights of a backbone by name, without counts of batches, which a frozen one does not need.

    Args:
        source: what pretrain_backbone.py wrote, or the Hugging Face folder of a detector that has such a backbone.
    """
    if source.is_dir():
        detector = AutoModelForObjectDetection.from_pretrained(source, dtype=torch.float32)
        return dict(detector.model.backbone.model.state_dict())
    return {k: v for k, v in load_file(source).items() if not k.endswith("num_batches_tracked")}


def digest(weights: Mapping[str, Tensor]) -> str:
    """Short name of a set of weights."""
    sha = hashlib.sha256()
    for name, value in sorted(weights.items()):
        sha.update(name.encode())
        sha.update(value.contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


def cache_features(
    backbone: Mapping[str, Tensor], arrays: Mapping[Grid, TrainingArrays], work: Path, device: torch.device
) -> Features:
    """Backbone features of all scenes and their mirror images, read from the work folder or computed into it."""
    body = AutoBackbone.from_config(backbone_config())  # unlike a detector's copy, it is fast in bfloat16
    counts = {k: v for k, v in body.state_dict().items() if k.endswith("num_batches_tracked")}
    body.load_state_dict(dict(backbone) | counts)
    body = body.to(device, memory_format=torch.channels_last).eval()
    name = digest(backbone)
    features: Features = {}
    for (h, w), scenes in arrays.items():
        for flip in (False, True):
            file = work / f"features_{name}_{h}x{w}_{int(flip)}.npy"
            if not file.is_file():
                log.info("computing %s", file.name)
                shape = (len(scenes), body.channels[-1], h // 16, w // 16)
                with atomic_file(file) as temporary:
                    maps = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                    for i in range(0, len(scenes), 64):
                        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                            out = body(pixel_values(scenes.images[i : i + 64], flip, device)).feature_maps[-1]
                        maps[i : i + 64] = out.half().cpu().numpy()
                    maps.flush()
            features[(h, w), flip] = np.load(file, mmap_mode="r")
    return features
