"""Train an embedded detector on rendered scenes and install it with its model card.

    python scripts/training/pretrain_backbone.py --work WORK --minutes 12
    python scripts/training/train_detector.py --architecture detr --work WORK --minutes 52

or, with the backbone of a detector that is there already,

    python scripts/training/train_detector.py --architecture deformable_detr --work WORK --backbone hetexp/assets/detr

The pre-trained backbone stays frozen, so its feature maps of all training scenes (and their mirror images) are computed
once; detectors of several architectures may share them. The transformer is trained with the library's own loss of its
class, on groups of queries that do not see each other: groups teach where objects are. DETR's training ends on one
group, with a heavier no-object class, which teaches not to find an object twice. Only the first group is kept, so the
result is a plain checkpoint of the library's class. A run that was stopped goes on from its last checkpoint with
--resume, with other settings if those are given.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from architectures import ARCHITECTURES, Architecture
from backbone_features import Features, backbone_weights, cache_features
from checkpoints import updated_folder
from detection_metrics import evaluate
from detector_card import card_of
from detector_trainer import Trainer
from pretrain_backbone import batches, load_arrays, log
from torch import Tensor
from transformers import AutoConfig, AutoModelForObjectDetection

from hetexp.data.synthetic.training_arrays import Grid, TrainingArrays
from hetexp.paths import asset

WARM = ("model.encoder.", "model.input_projection.")  # what --warm-start takes over


def labels_of(scenes: TrainingArrays, rows: np.ndarray, flip: bool, device: torch.device) -> list[dict[str, Tensor]]:
    """Targets as the library's losses take them."""
    boxes = torch.from_numpy(scenes.boxes[rows])
    if flip:
        boxes[..., 0] = 1 - boxes[..., 0]
    classes = torch.from_numpy(scenes.labels[rows]).long()
    return [
        {"class_labels": c[c >= 0].to(device), "boxes": b[c >= 0].to(device)}
        for c, b in zip(classes, boxes, strict=True)
    ]


def train(trainer: Trainer, arrays: dict[Grid, TrainingArrays], features: Features) -> None:
    """Train until `--minutes` are spent; log, checkpoint and install on the way."""
    args, device = trainer.args, trainer.device
    rng = np.random.default_rng([args.seed, trainer.step])
    before, start, first = trainer.seconds, time.monotonic(), trainer.images
    marks = {"log": 0.0, "save": 0.0, "install": 0.0}

    def due(name: str, minutes: float) -> bool:
        if time.monotonic() - start - marks[name] < 60 * minutes:
            return False
        marks[name] = time.monotonic() - start
        return True

    for grid, rows in batches(arrays, args.batch, rng):
        trainer.seconds = before + time.monotonic() - start
        progress = trainer.seconds / (60 * args.minutes)
        if progress >= 1:
            break
        flip = bool(rng.integers(2))
        x = torch.from_numpy(features[grid, flip][rows]).to(device).float()
        losses = trainer.update(x, labels_of(arrays[grid], rows, flip, device), progress)
        if due("log", 0.5):
            speed = (trainer.images - first) / (time.monotonic() - start)
            shown = ", ".join(f"{k[5:]} {losses[k]:.3f}" for k in ("loss_ce", "loss_bbox", "loss_giou"))
            log.info(
                "%3.0f %% step %d loss %.3f (%s) %.0f images/s",
                100 * progress, trainer.step, losses["loss"], shown, speed,
            )  # fmt: skip
        if due("save", 3):
            trainer.save(args.checkpoint)
        if due("install", args.install_every):
            finish(trainer, limit=100)
    trainer.save(args.checkpoint)


def finish(trainer: Trainer, limit: int | None = None) -> None:
    """Evaluate the averaged weights on the validation scenes, as they are stored, and install them."""
    args, architecture = trainer.args, trainer.architecture
    stored = trainer.result().to(torch.float16 if args.half else torch.float32)
    model = trainer.result()
    model.load_state_dict(stored.state_dict())  # in float32, with the stored weights' precision
    metrics = evaluate(architecture, model.to(trainer.device), args.val, limit)
    log.info("step %d: %s", trainer.step, json.dumps({k: round(v, 3) for k, v in metrics.items()}))
    measured = "all scenes" if limit is None else f"the first {limit} scenes"
    with updated_folder(args.out) as folder:
        stored.save_pretrained(folder)
        architecture.image_processor().save_pretrained(folder)
        (folder / "README.md").write_text(card_of(metrics, trainer, args.architecture, measured), encoding="utf-8")


def measure(folder: Path, scenes: Path, device: torch.device) -> dict[str, float]:
    """The metrics of an installed detector."""
    architecture = ARCHITECTURES[AutoConfig.from_pretrained(folder).model_type]
    model = architecture.model.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    return evaluate(architecture, model, scenes)


def parse() -> argparse.Namespace:
    """Options, with what follows from others filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), help="what to train")
    parser.add_argument("--work", type=Path, help="folder for scenes, features and checkpoints")
    parser.add_argument("--backbone", type=Path, help="detector's folder that gives the backbone [WORK's own]")
    parser.add_argument("--warm-start", type=Path, help="detector's folder that gives encoder and input projection")
    parser.add_argument("--out", type=Path, help="where the Hugging Face folder goes [hetexp/assets/ARCHITECTURE]")
    parser.add_argument("--val", type=Path, default=Path(asset("scenes")) / "val", help="validation scenes")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, over all resumed parts")
    parser.add_argument("--scenes", type=int, default=24000, help="training scenes")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--constant", type=float, default=0.6, help="share of the time before the rate falls")
    parser.add_argument("--groups", type=int, default=3, help="groups of queries in training")
    parser.add_argument("--no-object", type=float, help="weight of the no-object class, where there is one [0.15]")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--seed", type=int, default=7, help="as given to pretrain_backbone.py")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--install-every", type=float, default=8.0, help="minutes between installs while training")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    parser.add_argument("--evaluate", type=Path, help="only measure this Hugging Face folder")
    args = parser.parse_args()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    args.device = torch.device(auto if args.device == "auto" else args.device)
    if args.evaluate is not None:
        return args
    if args.work is None or args.architecture is None:
        parser.error("training needs --architecture and --work")
    if args.backbone is None and not (args.work / "backbone.safetensors").is_file():
        parser.error(
            f"{args.work} holds no backbone.safetensors: run scripts/training/pretrain_backbone.py first, "
            "or name a detector's folder with --backbone"
        )
    if ARCHITECTURES[args.architecture].has_no_object:
        args.no_object = 0.15 if args.no_object is None else args.no_object
    elif args.no_object is not None:
        parser.error(f"{args.architecture} has no no-object class: leave out --no-object")
    if not 0 < args.minutes < float("inf"):
        parser.error(f"--minutes {args.minutes:g} must be a positive number")
    if args.resume and args.warm_start is not None:
        parser.error("--resume goes on from a checkpoint: leave out --warm-start")
    args.checkpoint = args.work / f"{args.architecture}.safetensors"
    if args.checkpoint.exists() != args.resume:
        parser.error(
            f"{args.checkpoint} does not exist: leave out --resume"
            if args.resume
            else f"{args.checkpoint} exists: add --resume to go on from it, or move it away"
        )
    args.out = Path(asset(args.architecture)) if args.out is None else args.out
    return args


def trainer_of(architecture: Architecture, backbone: dict[str, Tensor], args: argparse.Namespace) -> Trainer:
    """A trainer at its start, or where its checkpoint was written."""
    torch.manual_seed(args.seed)
    changed = {"eos_coefficient": args.no_object} if architecture.has_no_object else {}
    trainer = Trainer(architecture, architecture.untrained(backbone, **changed), args, args.device)
    if args.resume:
        trainer.load(args.checkpoint)
    elif args.warm_start is not None:
        other = AutoModelForObjectDetection.from_pretrained(args.warm_start, dtype=torch.float32)
        trainer.warm_start(str(args.warm_start), other.state_dict(), WARM)
    return trainer


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    if args.evaluate is not None:
        print(json.dumps(measure(args.evaluate, args.val, args.device), indent=1))
        return
    arrays = load_arrays(args.work, args.seed, args.scenes, args.workers)
    backbone = backbone_weights(args.backbone if args.backbone is not None else args.work / "backbone.safetensors")
    features = cache_features(backbone, arrays, args.work, args.device)
    trainer = trainer_of(ARCHITECTURES[args.architecture], backbone, args)
    train(trainer, arrays, features)
    finish(trainer)


if __name__ == "__main__":
    main()
