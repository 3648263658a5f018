"""Time and peak memory of evaluation at COCO's size from a filled store, as a Markdown table.

    python scripts/measure_evaluation.py [--images 100,1000,5000] [--scales 1.0,0.3] [--workers 2] [--bootstrap 1000]

Objects, detections and relevance are made up (480 x 640 pixels, maps of 25 x 34 tokens, seven objects and detections
per image, 80 categories), since what evaluation costs does not depend on where relevance comes from. Memory is the
largest resident size of any one process since the store was full. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO

from hetexp.config import composed
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.metrics import get_metric
from hetexp.experiments.detection.scenes import StoredImage
from hetexp.experiments.detection.scores import Scorer, scored, shares_of
from hetexp.experiments.engine.methods import MethodSpec, resolve_methods
from hetexp.experiments.engine.store import Store

SIZE, INPUT, GRID = (480, 640), (800, 1066), (25, 34)
CHUNK = 50


def ellipse(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Centre x, centre y and the two radii, in units of the image's sides."""
    x, y = rng.uniform(0.1, 0.9, 2)
    a, b = rng.uniform(0.03, 0.3, 2)
    return float(x), float(y), float(a), float(b)


def annotation(number: int, image: int, category: int, shape: tuple[float, float, float, float]) -> dict[str, Any]:
    """An ellipse as COCO has it, a polygon of 24 corners."""
    x, y, a, b = shape
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    corners = np.stack([(x + a * np.cos(angle)) * SIZE[1], (y + b * np.sin(angle)) * SIZE[0]], axis=1)
    corners = corners.clip(0, (SIZE[1], SIZE[0]))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": int(number % 100 == 0),
        "area": float(np.pi * a * b * SIZE[0] * SIZE[1]),
        "segmentation": [corners.reshape(-1).round(2).tolist()],
    }


def made_up(folder: Path, count: int, specs: list[MethodSpec]) -> tuple[COCO, list[StoredImage], Store, list[str]]:
    """Annotations, detections, and a store with the relevance of every method."""
    rng = np.random.default_rng(0)
    coco, store = COCO(), Store(folder / "store", {"made": "up"}, "made-up")
    images: list[StoredImage] = []
    annotations: list[dict[str, Any]] = []
    chunks: list[str] = []
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    tensors: dict[str, torch.Tensor] = {}
    for image in range(1, count + 1):
        detections: list[tuple[int, int | None, float]] = []
        maps = []
        for row in range(int(rng.integers(3, 12))):
            category, (x, y, a, b) = int(rng.integers(1, 81)) if row % 3 else 1, ellipse(rng)
            annotations.append(annotation(len(annotations) + 1, image, category, (x, y, a, b)))
            detections.append((row, category, float(rng.random())))
            distance = ((columns / GRID[1] - x) / a) ** 2 + ((rows / GRID[0] - y) / b) ** 2
            maps.append(np.exp(-distance / 2) + rng.random(GRID) * 0.3)
        images.append(StoredImage(image, SIZE, INPUT, detections, [(0.5, 0.5, 1.0, 1.0)] * len(detections)))
        tensors[str(image)] = torch.from_numpy(np.stack(maps)).float()
        if len(tensors) == CHUNK or image == count:
            chunks.append(f"chunk-{len(chunks)}")
            for power, spec in enumerate(specs, start=1):
                store.write(chunks[-1], spec.unit, spec.settings, tensors={k: t**power for k, t in tensors.items()})
            tensors = {}
    coco.dataset = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, count + 1)],
        "categories": [{"id": c, "name": f"category {c}"} for c in range(1, 81)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, images, store, chunks


def measure(folder: Path, count: int, args: argparse.Namespace) -> None:
    """Print a row of the table."""
    torch.set_num_threads(1)
    specs = resolve_methods(composed("+experiment=table1"))
    coco, images, store, chunks = made_up(folder, count, specs)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # start a new maximum
    data: Any = SimpleNamespace(coco=coco)
    metrics = [get_metric("segm")]
    scorer = Scorer(
        store, chunks, images, data, specs[0], metrics, Upsampling.reference, Tie.background, args.bootstrap, 0
    )
    scales = [float(scale) for scale in args.scales.split(",")]
    before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    masks = 0
    for of_job in scored(scorer, shares_of(specs, scales, args.workers), args.workers, lambda: None):
        masks += sum(scores.counts["masks"] for scores in of_job)
    wall = time.perf_counter() - before[0]
    now = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(n.ru_utime + n.ru_stime - b.ru_utime - b.ru_stime for n, b in zip(now, before[1:], strict=True))
    own = int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) / 1024
    print(f"| {count} | {masks} | {wall:.0f} | {cpu:.0f} | {own:.0f} | {now[1].ru_maxrss / 1024:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="100,1000,5000", help="numbers of images")
    parser.add_argument("--scales", default="1.0,0.3", help="multiples of Otsu's threshold")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples behind the intervals")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        measure(args.one, int(args.images), args)
        return
    print(f"Five methods, scales {args.scales}, {args.bootstrap} resamples, {args.workers} worker processes.\n")
    print("| images | masks | wall time, s | CPU time, s | peak memory, MiB | of the largest worker, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in args.images.split(","):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--images", count, "--one", folder]
            command += ["--scales", args.scales, "--workers", str(args.workers), "--bootstrap", str(args.bootstrap)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
