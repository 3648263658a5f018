"""Speed and memory of detectors that sample their keys, against the least that any gradient method can do.

    python scripts/benchmark_detectors.py [--models deformable_detr,rt_detr] [--targets 1,10,20] [--repeats 1]

The floor is the library's own forward pass and its own backward pass per target down to the transformer's inputs, one
after the other. Ours are all five methods of the paper's tables. Both are timed in turn in one process; ratios are
formed within a repetition, and their median is printed. Peak memory is that of a process which does nothing else.
Weights are random, at the size of the published checkpoints.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
)

from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.observe import frozen, hooked
from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.rt_detr import RTDetrAdapter
from hetexp.targets import Logit

FIVE = ("gae", "odam", "ours_abs", "ours_pos", "ours_noised")
PIXELS = {"deformable_detr": (800, 1066), "rt_detr": (640, 640)}


def deformable_detr() -> ObservedDetector:
    """ResNet-50, four levels, 300 queries."""
    backbone = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(backbone_config=backbone, use_timm_backbone=False)
    return DeformableDetrAdapter(DeformableDetrForObjectDetection(config))


def rt_detr() -> ObservedDetector:
    """ResNet-50-vd, three levels, 300 queries."""
    return RTDetrAdapter(RTDetrForObjectDetection(RTDetrConfig()))


MODELS: dict[str, Callable[[], ObservedDetector]] = {"deformable_detr": deformable_detr, "rt_detr": rt_detr}


def build(name: str) -> tuple[ObservedDetector, Tensor]:
    """An adapter of random weights and pixels [1, 3, H, W]."""
    torch.manual_seed(0)
    return MODELS[name](), torch.randn(1, 3, *PIXELS[name])


def ours(adapter: ObservedDetector, pixels: Tensor, k: int) -> None:
    methods = build_methods(FIVE)
    (trace,) = observe(adapter, {"pixel_values": pixels}, [[Logit(0, q) for q in range(k)]], methods)
    attribute(trace, methods)


def floor(adapter: ObservedDetector, pixels: Tensor, k: int) -> None:
    """The library's own passes; the backbone is outside of the graph."""
    inputs: list[Tensor] = []

    def start(module: Any, args: Any, output: Tensor) -> None:
        inputs.append(output.requires_grad_())

    projections = adapter.feature_modules()["projection"]
    with frozen(adapter.model), hooked(module.register_forward_hook(start) for module in projections):
        logits = adapter.model(pixel_values=pixels).logits
    for query in range(k):
        torch.autograd.grad(logits[0, query, 0], inputs, retain_graph=query + 1 < k)


def peak_memory(name: str, way: str, targets: int, threads: int) -> float:
    """MiB of a fresh process that does one thing."""
    command = [sys.executable, __file__, "--peak", way, "--models", name, "--targets", str(targets)]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def table(name: str, args: argparse.Namespace) -> str:
    """A Markdown table of one detector."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    adapter, pixels = build(name)
    targets = [int(k) for k in args.targets.split(",")]
    times: dict[int, list[tuple[float, float]]] = {k: [] for k in targets}
    for _ in range(args.repeats):
        for k in targets:
            pair = []
            for way in (floor, ours):
                start = clock()
                way(adapter, pixels, k)
                pair.append(clock() - start)
            times[k].append((pair[0], pair[1]))
    side = "x".join(map(str, PIXELS[name]))
    lines = [
        f"### {name}, published size, {side} pixels, five methods",
        "",
        "| targets | floor, seconds | ours, seconds | ours / floor | peak memory, floor, MiB | ours, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for k, found in times.items():
        base, own = (statistics.median(column) for column in zip(*found, strict=True))
        ratio = statistics.median(b / a for a, b in found)
        memory = [peak_memory(name, way, k, args.threads) for way in ("floor", "ours")]
        lines.append(f"| {k} | {base:.1f} | {own:.1f} | {ratio:.2f} | {memory[0]:.0f} | {memory[1]:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of detectors that sample their keys.")
    parser.add_argument("--models", default="deformable_detr,rt_detr")
    parser.add_argument("--targets", default="1,10,20")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is not idle")
    parser.add_argument("--peak", choices=("floor", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.models.split(",")
    if unknown := set(names) - set(MODELS):
        parser.error(f"--models knows {', '.join(MODELS)}, not {', '.join(sorted(unknown))}")
    if args.peak:
        {"floor": floor, "ours": ours}[args.peak](*build(names[0]), int(args.targets))
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    print(
        f"Median of {args.repeats} repetitions, {args.threads} threads, {args.clock} time, torch {torch.__version__}."
    )
    for name in names:
        print(f"\n{table(name, args)}", flush=True)


if __name__ == "__main__":
    main()
