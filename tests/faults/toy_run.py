"""A toy run for `run_faults.py`: a tiny random DETR on a dozen random images, every run a process of its own.

Each process is forked from one that has loaded the libraries, so that a hundred runs do not load them a hundred times;
what it then does is what `python run.py` does.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.utils import logging

import hetexp.experiments.detection.run
import hetexp.experiments.tasks  # noqa: F401  loaded before a run is forked
from hetexp.cli import main

logging.disable_progress_bar()

ROOT = Path(__file__).parents[2]
IMAGES, CLASSES = 12, 8
METHODS = "methods=[gae,odam,ours_abs]"
UNITS = 4 * IMAGES // 2  # stored by a whole run: rows and three methods of every chunk of two images


class Run:
    """A forked process that runs the program; the part of `subprocess.Popen` that is needed here."""

    def __init__(self, pid: int, said: Path) -> None:
        self.pid, self._said = pid, said
        self._status: int | None = None

    @property
    def returncode(self) -> int:
        """Exit code, or minus the signal that ended it."""
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return None if self._status is None else self.returncode

    def communicate(self) -> tuple[str, None]:
        """Wait for its end; what it said."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return self._said.read_text(encoding="utf-8", errors="replace"), None


def _become(arguments: list[str], folder: Path, said: Path, code: str | None, file_limit: int | None) -> None:
    """In a forked process: run the program as a process of its own would, and end."""
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False, encoding="utf-8") for n in (1, 2))
    os.chdir(folder)
    os.environ["NO_PROXY"] = "127.0.0.1"
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = ["hetexp", *arguments]
    status: Any = 0
    try:
        exec(code or "", {})
        main()
    except SystemExit as left:
        status = left.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


# Run before a toy run's own code: memory for some images only, and a W&B that cannot be reached.
NO_MEMORY = """
import torch
from hetexp.models.detr import DetrAdapter
whole = DetrAdapter.trace
def trace(self, inputs, targets, **more):
    if len(targets) > {fits}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return whole(self, inputs, targets, **more)
DetrAdapter.trace = trace
"""
NO_WANDB = """
import wandb
def init(**settings):
    raise wandb.errors.CommError("the network is gone")
wandb.init = init
"""


def write_model(folder: Path) -> None:
    """A tiny random DETR."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        d_model=32,
        num_queries=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        id2label={i: f"c{i}" for i in range(CLASSES)},
        label2id={f"c{i}": i for i in range(CLASSES)},
    )
    model = DetrForObjectDetection(config)
    with torch.no_grad():  # unlike queries and classes, or every detection would be the same
        model.model.query_position_embeddings.weight.normal_()
        model.class_labels_classifier.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)


def write_scenes(root: Path, count: int = IMAGES) -> None:
    """Random images with one object each."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        height, width = [(120, 160), (160, 120), (128, 128)][i % 3]
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"images/{i:03d}.png")
        images.append({"id": i, "file_name": f"{i:03d}.png", "width": width, "height": height})
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[10:112, 12:108] = 1
        code = rle.encode(mask)
        shape = {"size": code["size"], "counts": code["counts"].decode()}
        more = {"segmentation": shape, "area": int(mask.sum()), "bbox": [12, 10, 96, 102], "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % CLASSES, **more})
    categories = [{"id": i + 1, "name": f"c{i}"} for i in range(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


@dataclass
class Done:
    """A process that ended: exit code (negative: signal), what it said, its results."""

    code: int
    text: str
    results: bytes | None

    @property
    def last(self) -> str:
        """What it said of the fault: the last error or warning, else the first line if it failed."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()] or [""]
        said = [line for line in lines if "[ERROR]" in line or "[WARNING]" in line]
        return (said[-1] if said else lines[0 if self.code else -1]).rpartition("] - ")[2]


class Toy:
    """A model, data and runs below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.scenes = folder, folder / "model", folder / "scenes"
        write_model(self.model)
        write_scenes(self.scenes)
        self._started = 0
        start = time.monotonic()
        self.reference = self.run("reference").results
        self.seconds = time.monotonic() - start
        if self.reference is None:
            raise SystemExit("the undisturbed run failed")

    def command(self, name: str, *overrides: str) -> list[str]:
        """Command line of a run in its own folder with its own store."""
        multirun = "-m" in overrides
        folder = "hydra.sweep.dir" if multirun else "hydra.run.dir"
        base = [
            "data=coco",
            f"data.root={self.scenes}",
            f"model.checkpoint={self.model}",
            "model.score_threshold=0.1",
            "chunk_size=2",
            "threads=1",
            "progress=false",
            f"paths.outputs={self.folder}/{name}",
            f"{folder}={self.folder}/{name}/run",
        ]
        flags = [o for o in overrides if o.startswith("-")]
        return [*flags, *base, METHODS, *(o for o in overrides if o not in flags)]

    def start(self, name: str, *overrides: str, code: str | None = None, file_limit: int | None = None) -> Run:
        """Start a run without waiting for it; `code` runs before the program."""
        self._started += 1
        said = self.folder / f"said-{self._started}.txt"
        pid = os.fork()
        if pid == 0:
            _become(self.command(name, *overrides), self.folder, said, code, file_limit)
        return Run(pid, said)

    def finish(self, name: str, process: Run) -> Done:
        """Wait for a run."""
        text, _ = process.communicate()
        path = self.folder / name / "run" / "results.csv"
        return Done(process.returncode, text, path.read_bytes() if path.exists() else None)

    def run(self, name: str, *overrides: str, code: str | None = None, file_limit: int | None = None) -> Done:
        """Run to the end."""
        return self.finish(name, self.start(name, *overrides, code=code, file_limit=file_limit))

    def store(self, name: str) -> Path:
        return self.folder / name / "store"

    def copy_store(self, name: str) -> Path:
        """The undisturbed run's store as the store of another run."""
        return Path(shutil.copytree(self.store("reference"), self.store(name)))

    def equal(self, done: Done) -> str:
        return "yes" if done.code == 0 and done.results == self.reference else "NO"
