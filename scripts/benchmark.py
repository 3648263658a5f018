"""Speed and memory against the reference's way of computing the same relevance, as ratios taken in turn in one run.

    python scripts/benchmark.py [--sizes full,embedded] [--parts detr,lxmert,sweep] [--targets 1,5,10,20] [--repeats 3]

The reference (hila-chefer/Transformer-MM-Explainability, on facebookresearch/detr's models) runs, for every target and
method, a forward pass and a full backward pass that keeps the graph (weights included, and the backbone's last three
stages, which its DETR trains), then dense products of N x N matrices. That cost is a sum of equal parts, so one target
of every method is timed and the parts are added up. The floor is what no method can go below:
a forward pass and a backward pass per target through the transformer's activations, nothing else, both as the
library computes them; "batched" runs the directions together, "in turn" one after the other.

The sweep runs the product itself: all five methods at 20 Otsu scales, from stored relevance, against as many runs with
an empty store (one is timed).

Every measurement of a repetition follows the others, ratios are formed within it, and their median is printed.
Peak memory is that of a process which does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DetrConfig, DetrForObjectDetection, LxmertConfig, LxmertForQuestionAnswering, ResNetConfig

from hetexp.attribution.attribute import attribute, build_methods, observe, pictures
from hetexp.attribution.registry import METHODS
from hetexp.config import composed
from hetexp.evaluation.perturbation import variants
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate
from hetexp.experiments.vqa.perturb import answer_variants
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.observe import frozen
from hetexp.models.protocols import EncodedQuestion
from hetexp.paths import asset
from hetexp.targets import Logit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # whose oracle is the reference's way, one for tests and times
import make_random_checkpoints  # noqa: E402
import oracle  # noqa: E402

ONE = ("ours_pos",)
FIVE = ("gae", "odam", "ours_abs", "ours_pos", "ours_noised")
ALL = tuple(name for name in METHODS if name in oracle.METHODS)  # for which the reference's way is written down
SETS = {"one": ONE, "five": FIVE, f"all {len(ALL)}": ALL}
QUESTIONS = {"full": 4, "embedded": 16}
IMAGES = {"full": 10, "embedded": 100}
SCALES = [round(0.1 * n, 1) for n in range(1, 21)]
PIXELS = {"full": (800, 1066), "embedded": (256, 256)}


def build(size: str) -> tuple[DetrForObjectDetection, Tensor]:
    """A model and pixels [1, 3, H, W]; time does not depend on the weights' values."""
    torch.manual_seed(0)
    if size == "embedded":
        config = DetrConfig.from_pretrained(asset("detr"))
    else:
        config = DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]), num_labels=91)
    config._attn_implementation = {"": "eager"}
    model = DetrForObjectDetection(config).eval()
    with torch.no_grad():  # fresh value biases are 0, where GAE's rule drops whole layers
        for name, parameter in model.named_parameters():
            if name.endswith(("v_proj.bias", "o_proj.bias")):
                parameter.normal_(0, 0.1)
    return model, torch.randn(1, 3, *PIXELS[size])


def ours(model: DetrForObjectDetection, pixels: Tensor, targets: int, methods: tuple[str, ...]) -> dict[str, Tensor]:
    adapter = DetrAdapter(model)
    built = build_methods(methods)
    (trace,) = observe(adapter, {"pixel_values": pixels}, [[Logit(0, q) for q in range(targets)]], built)
    return {name: found["image"] for name, found in pictures(trace, attribute(trace, built)).items()}


# -- the reference's way ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def trained_backbone(model: DetrForObjectDetection, wanted: bool) -> Iterator[None]:
    """Stages 2 to 4 ask for gradients, as where the reference takes its DETR from; the library freezes them all."""
    parts = [p for n, p in model.model.backbone.named_parameters() if "stages." in n and "stages.0" not in n]
    for parameter in parts:
        parameter.requires_grad_(wanted)
    try:
        yield
    finally:
        for parameter in parts:
            parameter.requires_grad_(False)


def reference(model: DetrForObjectDetection, pixels: Tensor, query: int, method: str) -> Tensor:
    """Relevance [N] of one query: forward, full backward that keeps the maps' gradients, dense products."""
    with oracle.watching_detector(model, cut_backbone=False) as seen:
        logits = model(pixel_values=pixels).logits
    kept = [seen.features["projection"], *seen.maps]
    for tensor in kept:
        tensor.retain_grad()
    model.zero_grad(set_to_none=True)
    logits[0, query, 0].backward(retain_graph=True)
    with torch.no_grad():
        gradient, *gradients = (tensor.grad for tensor in kept)
        run = oracle.detector_run(model, seen, gradients, "projection", gradient, query)
        return oracle.METHODS[method](run)["image"]


# -- the floor -------------------------------------------------------------------------------------------------


def floor(model: DetrForObjectDetection, pixels: Tensor, targets: int, batched: bool) -> Tensor:
    """Gradients of the targets at the transformer's input: forward and activation-only backward, no observation."""
    leaf: list[Tensor] = []

    def cut(module: Any, args: Any, output: Tensor) -> Tensor:
        leaf.append(output.detach().requires_grad_())
        return leaf[0]

    with frozen(model):
        handle = model.model.input_projection.register_forward_hook(cut)
        scalars = model(pixel_values=pixels).logits[0, :targets, 0]
        handle.remove()
        if batched:
            return torch.autograd.grad(scalars, leaf, torch.eye(targets), is_grads_batched=True)[0]
        return torch.stack([torch.autograd.grad(s, leaf, retain_graph=True)[0] for s in scalars])


# -- perturbed questions ---------------------------------------------------------------------------------------


def perturbation(size: str, args: argparse.Namespace, clock: Callable[[], float]) -> str:
    """Answers to every perturbed input of some questions, five methods: ours against one input at a time."""
    torch.manual_seed(0)
    config = LxmertConfig.from_pretrained(asset("lxmert")) if size == "embedded" else LxmertConfig(num_qa_labels=3129)
    adapter = LxmertAdapter(LxmertForQuestionAnswering(config))
    images = [(torch.randn(36, config.visual_feat_dim), torch.rand(36, 4)) for _ in range(QUESTIONS[size] // 2)]
    samples = []
    for n in range(QUESTIONS[size]):  # two on each image
        ids = torch.randint(5, config.vocab_size, (7 + n % 6,))
        samples.append(EncodedQuestion(ids, *images[n // 2], image=str(n // 2)))
    methods, plans = build_methods(FIVE), []
    traces = observe(adapter, adapter.collate(samples), [[Logit()]] * len(samples), methods)
    for sample, trace in zip(samples, traces, strict=True):
        found = attribute(trace, methods)
        n = len(sample.input_ids)
        plans.append({name: variants(r["text"][0, :n], r["image"][0]) for name, r in found.items()})

    def together() -> list[int]:
        wanted = [[v for plan in plans_.values() for v in plan.values()] for plans_ in plans]
        answers = answer_variants(adapter, samples, wanted)
        return [a[v] for a, plans_ in zip(answers, plans, strict=True) for p in plans_.values() for v in p.values()]

    def in_turn() -> list[int]:
        out = []
        for sample, plans_ in zip(samples, plans, strict=True):
            for variant in (v for plan in plans_.values() for v in plan.values()):
                text, regions = list(variant.text), list(variant.regions)
                inputs = {
                    "input_ids": sample.input_ids[None, text],
                    "visual_feats": sample.features[None, regions],
                    "visual_pos": sample.boxes[None, regions],
                }
                out.append(int(adapter.predict(inputs)[0].argmax()))
        return out

    if together() != in_turn():
        raise SystemExit("perturbed answers differ between the two ways: nothing to compare")
    times = [(seconds(together, clock), seconds(in_turn, clock)) for _ in range(args.repeats)]
    own = statistics.median(t for t, _ in times) / len(samples)
    ratio = statistics.median(b / a for a, b in times)
    return (
        f"### LXMERT perturbation, {size} size, five methods\n\n| questions | inputs each | seconds per question "
        f"| one at a time / ours |\n| --- | --- | --- | --- |\n"
        f"| {len(samples)} | {sum(len(p) for p in plans[0].values())} | {own:.3f} | {ratio:.1f} |"
    )


# -- threshold sweep -------------------------------------------------------------------------------------------


def sweep(size: str, args: argparse.Namespace, clock: Callable[[], float]) -> str:
    """Tables of all methods at 20 scales: from the store, against computing relevance for each."""
    images = IMAGES[size]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = [f"methods=[{','.join(FIVE)}]", f"limit={images}", "progress=false", f"paths.outputs={folder / 'out'}"]
        if size == "full":
            make_random_checkpoints.write_detr(folder / "detr")
            make_random_checkpoints.write_coco(folder / "coco", images)
            given += ["profile=paper", f"data.root={folder / 'coco'}", f"model.checkpoint={folder / 'detr'}"]

        def work(label: str, scales: list[float]) -> float:
            cfg = composed(*given, f"threshold.scale={scales}")
            with contextlib.redirect_stdout(io.StringIO()):
                return seconds(lambda: evaluate(open_session(cfg, folder / label)), clock)

        once = work("once", [SCALES[0]])
        all_scales = work("all", SCALES)
    return (
        f"### Threshold sweep, {size} size, five methods, {images} images, {len(SCALES)} scales\n\n"
        f"| one scale, nothing stored, seconds | {len(SCALES)} scales from the store, seconds | recomputing / store |\n"
        f"| --- | --- | --- |\n| {once:.1f} | {all_scales:.1f} | {len(SCALES) * once / all_scales:.0f} |"
    )


# -- measuring -------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def check(model: DetrForObjectDetection, pixels: Tensor) -> None:
    """Both ways must agree before their times are compared."""
    found = ours(model, pixels, 2, ALL)
    for method in ALL:
        want, got = reference(model, pixels, 1, method), found[method][1].flatten()
        off = float((want - got).abs().max() / want.abs().max().clamp(min=1e-30))
        if not off <= 1e-3:
            raise SystemExit(f"{method} differs from the reference by {off:.1e} of its maximum: nothing to compare")


def repetition(
    model: DetrForObjectDetection, pixels: Tensor, targets: list[int], clock: Callable[[], float]
) -> dict[tuple[int, str], dict[str, float]]:
    """(targets, name of SETS) -> times of our way and its ratios to the others, measured one after the other."""
    single = {}
    for backbone in (True, False):
        with trained_backbone(model, backbone):
            for method in ALL:
                single[backbone, method] = seconds(partial(reference, model, pixels, 0, method), clock)
    out = {}
    for k in targets:
        floors = [seconds(partial(floor, model, pixels, k, batched), clock) for batched in (True, False)]
        for label, methods in SETS.items():
            own = seconds(partial(ours, model, pixels, k, methods), clock)
            out[k, label] = {
                "seconds": own,
                "reference": k * sum(single[True, m] for m in methods) / own,
                "frozen": k * sum(single[False, m] for m in methods) / own,
                "batched": own / floors[0],
                "in turn": own / floors[1],
            }
    return out


def peak_memory(size: str, way: str, targets: int, threads: int) -> float:
    """MiB of a fresh process that does one thing."""
    command = [sys.executable, __file__, "--peak", way, "--sizes", size, "--targets", str(targets)]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(size: str, way: str, targets: int) -> None:
    model, pixels = build(size)
    if way == "ours":
        ours(model, pixels, targets, FIVE)
    elif way == "reference":
        with trained_backbone(model, True):
            reference(model, pixels, 0, "gae")
    status = Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss starts at what its parent had
        print(int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def table(size: str, args: argparse.Namespace, clock: Callable[[], float]) -> str:
    model, pixels = build(size)
    targets = sorted({min(int(k), model.config.num_queries) for k in args.targets.split(",")})
    check(model, pixels)
    repeats = [repetition(model, pixels, targets, clock) for _ in range(args.repeats)]
    side = "x".join(map(str, pixels.shape[2:]))
    lines = [
        f"### DETR, {size} size, {side} pixels",
        "",
        "| methods | targets | seconds | reference / ours | its backbone frozen / ours | ours / floor, batched "
        "| ours / floor, in turn |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in sorted(repeats[0], key=lambda key: (list(SETS).index(key[1]), key[0])):
        m = {name: statistics.median(r[key][name] for r in repeats) for name in repeats[0][key]}
        lines.append(
            f"| {key[1]} | {key[0]} | {m['seconds']:.2f} | {m['reference']:.1f} | {m['frozen']:.1f} "
            f"| {m['batched']:.2f} | {m['in turn']:.2f} |"
        )
    lines += ["", "| peak memory, five methods | MiB |", "| --- | --- |"]
    lines.append(f"| model and libraries alone | {peak_memory(size, 'nothing', 1, args.threads):.0f} |")
    for k in targets:
        lines.append(f"| ours, {k} targets | {peak_memory(size, 'ours', k, args.threads):.0f} |")
    lines.append(f"| reference, one target and method | {peak_memory(size, 'reference', 1, args.threads):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare speed and memory with the reference's way.")
    parser.add_argument("--sizes", default="full,embedded")
    parser.add_argument("--parts", default="detr,lxmert,sweep")
    parser.add_argument("--targets", default="1,5,10,20")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is not idle")
    parser.add_argument("--output", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument("--peak", choices=("nothing", "ours", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--against", metavar="REV", help="instead: every model of this tree against that commit")
    args = parser.parse_args()
    if args.against:
        command = [sys.executable, str(HERE / "benchmark_against.py"), args.against, "--repeats", str(args.repeats)]
        raise SystemExit(
            subprocess.run([*command, *(["--output", str(args.output)] if args.output else [])]).returncode
        )
    torch.set_num_threads(args.threads)
    if args.peak:
        print_peak(args.sizes, args.peak, int(args.targets))
        return
    works = {"detr": table, "lxmert": perturbation, "sweep": sweep}
    for key, given, known in (("--parts", args.parts, works), ("--sizes", args.sizes, PIXELS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"{key} knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    head = (
        f"Median of {args.repeats} repetitions, {args.threads} threads, {args.clock} time, torch {torch.__version__}."
    )
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    parts = ["# Benchmark", head]
    print("\n\n".join(parts))
    for size in args.sizes.split(","):
        for part in args.parts.split(","):
            parts.append(works[part](size, args, clock))
            print(f"\n{parts[-1]}", flush=True)
            if args.output:
                args.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
