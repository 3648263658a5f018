"""Train the embedded DETR on rendered scenes and install it with its model card.

    python scripts/training/pretrain_backbone.py --work WORK --minutes 12
    python scripts/training/train_detr.py --work WORK --minutes 52 --groups 3
    python scripts/training/train_detr.py --work WORK --minutes 115 --groups 1 --no-object 0.4 --resume

The pre-trained backbone stays frozen, so its feature maps of all training scenes (and their mirror images) are computed
once. The transformer is trained with DETR's own loss, at first on several groups of queries that do not see each
other, then on one: groups teach where objects are, one group with a heavier no-object class teaches not to find an
object twice. Only the first group is kept, so the result is a plain DetrForObjectDetection. A run that was stopped
goes on from its last checkpoint with --resume, with other settings if those are given.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from checkpoints import load_state, save_state, updated_folder
from detection_metrics import evaluate, processor
from pretrain_backbone import backbone_config, batches, load_arrays, log, pixel_values
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoBackbone, DetrConfig, DetrForObjectDetection

from hetexp.data.synthetic.sprites import load_sprites
from hetexp.data.synthetic.training_arrays import LONG_SIDE, SHORT_SIDE, Grid, TrainingArrays
from hetexp.files import atomic_file
from hetexp.paths import asset

QUERIES = 16
Features = dict[tuple[Grid, bool], np.ndarray]  # by input size and mirrored or not: [N, 128, h/16, w/16] float16


class Ready(nn.Module):
    """Stands in for the frozen backbone: its input is the feature map already."""

    def forward(self, features: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(features, mask.bool())]


def build(backbone: dict[str, Tensor], no_object: float) -> DetrForObjectDetection:
    """An untrained DETR on a pre-trained, frozen backbone."""
    names = load_sprites().names
    config = DetrConfig(
        backbone_config=backbone_config(),
        num_queries=QUERIES,
        d_model=128,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        dropout=0.0,
        auxiliary_loss=True,
        eos_coefficient=no_object,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = DetrForObjectDetection(config)
    body = model.model.backbone.model
    missing, unexpected = body.load_state_dict(backbone, strict=False)
    if missing or [key for key in unexpected if not key.endswith("num_batches_tracked")]:
        raise SystemExit(f"the pre-trained backbone does not fit: missing {missing}, unexpected {unexpected}")
    model.model.freeze_backbone()
    return model


def cache_features(
    backbone: dict[str, Tensor], arrays: dict[Grid, TrainingArrays], work: Path, device: torch.device
) -> Features:
    """Backbone features of all scenes and their mirror images, computed once and kept in the work folder."""
    body = AutoBackbone.from_config(backbone_config())  # unlike DETR's copy, it is fast in bfloat16
    body.load_state_dict(backbone)
    body = body.to(device, memory_format=torch.channels_last).eval()
    features: Features = {}
    for (h, w), scenes in arrays.items():
        for flip in (False, True):
            file = work / f"features_{h}x{w}_{int(flip)}.npy"
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


def labels_of(scenes: TrainingArrays, rows: np.ndarray, flip: bool, device: torch.device) -> list[dict[str, Tensor]]:
    """Targets as DETR's loss takes them."""
    boxes = torch.from_numpy(scenes.boxes[rows])
    if flip:
        boxes[..., 0] = 1 - boxes[..., 0]
    classes = torch.from_numpy(scenes.labels[rows]).long()
    return [
        {"class_labels": c[c >= 0].to(device), "boxes": b[c >= 0].to(device)}
        for c, b in zip(classes, boxes, strict=True)
    ]


class Trainer:
    """The transformer's training state: weights, their moving average, optimiser, time spent."""

    def __init__(self, model: DetrForObjectDetection, args: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(args.seed)
        self.args, self.device, self.model = args, device, model.to(device)
        if args.amp:
            model.set_attn_implementation("eager")  # on the CPU, fused attention is slow backwards in bfloat16
        self.frozen = model.model.backbone
        model.model.backbone = Ready()
        model.model.query_position_embeddings = nn.Embedding(QUERIES * args.groups, model.config.d_model).to(device)
        together = torch.block_diag(*[torch.ones(QUERIES, QUERIES)] * args.groups).to(device)
        self.mask = together.log()[None, None] if args.groups > 1 else None  # added to scores: 0 or -inf
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
        self.step, self.seconds = 0, 0.0
        self.parts = [self.settings()]  # of this run and those it goes on from

    def settings(self) -> dict[str, float]:
        """The settings that parts of one training may change."""
        return {key: getattr(self.args, key) for key in ("minutes", "groups", "no_object")}

    def update(self, features: Tensor, labels: list[dict[str, Tensor]], progress: float) -> dict[str, float]:
        """One step of the optimiser on feature maps [B, C, h, w]; returns DETR's losses."""
        rate = self.args.lr * min(1.0, (self.step + 1) / 300)
        rate *= 1 - max(0.0, (progress - self.args.constant) / (1 - self.args.constant))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        model, config, groups = self.model.train(), self.model.config, self.args.groups
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.amp):
            mask = None if self.mask is None else self.mask.expand(len(features), -1, -1, -1)
            hidden = model.model(features, decoder_attention_mask=mask).intermediate_hidden_states
        hidden = hidden.float().unflatten(2, (groups, QUERIES)).flatten(1, 2)  # [layers, B * groups, queries, d]
        logits, boxes = model.class_labels_classifier(hidden), model.bbox_predictor(hidden).sigmoid()
        every = [label for label in labels for _ in range(groups)]
        loss, parts, _ = model.loss_function(logits[-1], every, self.device, boxes[-1], config, logits, boxes)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        self.optimiser.step()
        self.step += 1
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return {"loss": loss.item(), **{k: v.item() for k, v in parts.items() if k.startswith("loss")}}

    def result(self) -> DetrForObjectDetection:
        """A plain DETR with the averaged weights, the frozen backbone and the first group of queries."""
        model = DetrForObjectDetection(self.model.config)
        weights = {f"model.backbone.{k}": v for k, v in self.frozen.state_dict().items()} | self.average
        position = "model.query_position_embeddings.weight"
        weights[position] = weights[position][:QUERIES].clone()
        model.load_state_dict(weights)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint whole or not at all."""
        weights = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        weights |= {f"average.{k}": v for k, v in self.average.items()}
        progress = {"step": self.step, "seconds": self.seconds, "parts": self.parts}
        save_state(path, weights, self.optimiser, progress)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint that `save` wrote; of its groups of queries the first ones stay."""
        state = load_state(path, self.device)
        weights, average = (
            {k.removeprefix(prefix): v for k, v in state.weights.items() if k.startswith(prefix)}
            for prefix in ("model.", "average.")
        )
        position = "model.query_position_embeddings.weight"
        rows = QUERIES * self.args.groups
        if len(weights[position]) < rows:
            raise SystemExit(f"{path} holds fewer groups of queries than --groups {self.args.groups}")
        moments = state.moments[[name for name, _ in self.model.named_parameters()].index(position)]
        for table, key in ((weights, position), (average, position), (moments, "exp_avg"), (moments, "exp_avg_sq")):
            table[key] = table[key][:rows].clone()
        self.parts = [part for part in state.progress["parts"] if part != self.settings()] + self.parts
        self.model.load_state_dict(weights)
        self.average = average
        state.restore_moments(self.optimiser)
        self.step, self.seconds = state.progress["step"], state.progress["seconds"]


def install(model: DetrForObjectDetection, out: Path, card: str) -> None:
    """Write a Hugging Face folder, whole or not at all."""
    with updated_folder(out) as folder:
        model.save_pretrained(folder)
        processor().save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def card_of(metrics: dict[str, float], trainer: Trainer, scenes: int, measured: str) -> str:
    """The model card."""
    args = trainer.args
    seen = trainer.step * args.batch
    rows = "\n".join(
        f"| {name} | {metrics[key]:.{digits}f} |"
        for name, key, digits in (
            ("box AP (IoU 0.50:0.95), %", "AP", 1),
            ("box AP50, %", "AP50", 1),
            ("box AP75, %", "AP75", 1),
            ("box AP small / area < 32², %", "AP_small", 1),
            ("box AP medium, %", "AP_medium", 1),
            ("box AP large / area > 96², %", "AP_large", 1),
            ("precision of queries with p > 0.5", "precision", 3),
            ("recall of queries with p > 0.5", "recall", 3),
        )
    )
    count = sum(p.numel() for p in trainer.model.parameters()) + sum(p.numel() for p in trainer.frozen.parameters())
    rounds = json.loads((args.work / "backbone.json").read_text(encoding="utf-8"))
    backbone_images, backbone_minutes = (sum(r[key] for r in rounds) for key in ("images", "minutes"))
    device = "one CPU core" if trainer.device.type == "cpu" else trainer.device.type
    common = f"--work WORK --scenes {scenes} --seed {args.seed}"
    lines = [
        f"    python scripts/training/train_detr.py {common} --minutes {p['minutes']:g} --groups {p['groups']} "
        f"--no-object {p['no_object']:g}{' --resume' if i else ''}"
        for i, p in enumerate(trainer.parts)
    ]
    commands = "\n".join(lines)
    groups = ", then ".join(
        dict.fromkeys(f"{p['groups']} (no-object weight {p['no_object']:g})" for p in trainer.parts)
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: object-detection
---

# Embedded DETR

A small but true `DetrForObjectDetection` ({count / 1e6:.1f} M parameters) for hetexp's rendered scenes: basic ResNet of
output stride 16, d_model 128, 8 heads, 3 + 3 layers, {QUERIES} queries, {len(load_sprites().names)} COCO categories.
Inputs have a short side of {SHORT_SIDE} and a long side of at most {LONG_SIDE} pixels. It knows emoji on rendered
backgrounds and nothing else.

## Measured

On {measured} of `hetexp/assets/scenes/val`, which no training used (pycocotools; precision and
recall count a query as right at IoU 0.5 with the right class):

| metric | value |
|---|---|
{rows}

    python scripts/training/train_detr.py --evaluate hetexp/assets/detr

## Recipe

    python scripts/training/pretrain_backbone.py {common} --minutes {backbone_minutes:g}
{commands}

1. {scenes:,} training scenes (seed {args.seed}; the validation scenes have another) and their mirror images.
2. Backbone: per stride-16 cell the majority class, the classes present and the patches covered by the majority object;
   batch normalisation trainable; {backbone_images:,} images in {backbone_minutes:g} minutes; then frozen.
3. Transformer: DETR's own loss with auxiliary losses; groups of queries in training, of which one is kept:
   {groups};
   AdamW, batch {args.batch}, learning rate {args.lr:g} falling linearly to 0 after {100 * args.constant:.0f} % of the
   time, moving average of weights; {trainer.step:,} steps, {seen:,} images in {trainer.seconds / 60:.0f} minutes on
   {device}.

The scenes are composed from Noto Color Emoji (SIL Open Font License 1.1).
"""


def train(trainer: Trainer, arrays: dict[Grid, TrainingArrays], features: Features) -> None:
    """Train until `--minutes` are spent; log, checkpoint and install on the way."""
    args, device = trainer.args, trainer.device
    rng = np.random.default_rng([args.seed, trainer.step])
    before, start, first = trainer.seconds, time.monotonic(), trainer.step
    marks = {"log": 0.0, "save": 0.0, "install": 0.0}

    def due(name: str, minutes: float) -> bool:
        if time.monotonic() - start - marks[name] < 60 * minutes:
            return False
        marks[name] = time.monotonic() - start
        return True

    for grid, rows in batches(arrays, args.batch, rng):
        trainer.seconds = before + time.monotonic() - start
        progress = trainer.seconds / (60 * args.minutes)
        if progress >= 1 or not math.isfinite(progress):
            break
        flip = bool(rng.integers(2))
        x = torch.from_numpy(features[grid, flip][rows]).to(device).float()
        losses = trainer.update(x, labels_of(arrays[grid], rows, flip, device), progress)
        if due("log", 0.5):
            speed = (trainer.step - first) * args.batch / (time.monotonic() - start)
            shown = ", ".join(f"{k[5:]} {losses[k]:.3f}" for k in ("loss_ce", "loss_bbox", "loss_giou"))
            log.info(
                "%3.0f %% step %d loss %.3f (%s) %.0f images/s",
                100 * progress, trainer.step, losses["loss"], shown, speed,
            )  # fmt: skip
        if due("save", 3):
            trainer.save(args.work / "checkpoint.safetensors")
        if due("install", args.install_every):
            finish(trainer, args.scenes, limit=100)
    trainer.save(args.work / "checkpoint.safetensors")


def finish(trainer: Trainer, scenes: int, limit: int | None = None) -> None:
    """Evaluate the averaged weights on the validation scenes and install them."""
    model = trainer.result()
    metrics = evaluate(model, trainer.args.val, limit)
    log.info("step %d: %s", trainer.step, json.dumps({k: round(v, 3) for k, v in metrics.items()}))
    measured = "all scenes" if limit is None else f"the first {limit} scenes"
    install(model, trainer.args.out, card_of(metrics, trainer, scenes, measured))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder with backbone.safetensors; scenes and checkpoints live here")
    parser.add_argument("--out", type=Path, default=Path(asset("detr")), help="where the Hugging Face folder goes")
    parser.add_argument("--val", type=Path, default=Path(asset("scenes")) / "val", help="validation scenes")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, over all resumed parts")
    parser.add_argument("--scenes", type=int, default=24000, help="training scenes")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--constant", type=float, default=0.6, help="share of the time before the rate falls")
    parser.add_argument("--groups", type=int, default=3, help="groups of queries in training")
    parser.add_argument("--no-object", type=float, default=0.15, help="weight of the no-object class")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=7, help="as given to pretrain_backbone.py")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--install-every", type=float, default=8.0, help="minutes between installs while training")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    parser.add_argument("--evaluate", type=Path, help="only measure this Hugging Face folder")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if args.device == "auto" else args.device)
    if args.evaluate is not None:
        model = DetrForObjectDetection.from_pretrained(args.evaluate).to(device).eval()
        print(json.dumps(evaluate(model, args.val), indent=1))
        return
    if args.work is None or not (args.work / "backbone.safetensors").is_file():
        parser.error("--work must hold backbone.safetensors: run scripts/training/pretrain_backbone.py first")
    checkpoint = args.work / "checkpoint.safetensors"
    if checkpoint.exists() and not args.resume:
        parser.error(f"{checkpoint} exists: add --resume to go on from it, or move it away")
    arrays = load_arrays(args.work, args.seed, args.scenes, args.workers)
    backbone = load_file(args.work / "backbone.safetensors")
    features = cache_features(backbone, arrays, args.work, device)
    trainer = Trainer(build(backbone, args.no_object), args, device)
    if args.resume and checkpoint.exists():
        trainer.load(checkpoint)
    train(trainer, arrays, features)
    finish(trainer, args.scenes)


if __name__ == "__main__":
    main()
