"""The model card of a detector that train_detector.py trained."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping

from detector_trainer import Trainer

from hetexp.data.synthetic.training_arrays import LONG_SIDE, SHORT_SIDE

ROWS = (
    ("box AP (IoU 0.50:0.95), %", "AP"),
    ("box AP50, %", "AP50"),
    ("box AP75, %", "AP75"),
    ("box AP small / area < 32², %", "AP_small"),
    ("box AP medium, %", "AP_medium"),
    ("box AP large / area > 96², %", "AP_large"),
)
WIDTH = 118  # characters of a line
SHARES = ("precision", "recall")


def card_of(metrics: Mapping[str, float], trainer: Trainer, name: str, measured: str) -> str:
    """The model card.

    Args:
        metrics: as `detection_metrics.evaluate` returns them, of the very weights that the card goes with.
        trainer: what trained them.
        name: the architecture's, which the asset's folder has too.
        measured: which scenes the metrics are of.
    """
    shown = [(text, f"{metrics[key]:.1f}") for text, key in ROWS]
    for p in trainer.architecture.thresholds:
        shown += [(f"{share} of queries with p > {p:g}", f"{metrics[f'{share}@{p:g}']:.3f}") for share in SHARES]
    rows = "\n".join(f"| {text} | {value} |" for text, value in shown)
    steps = "\n".join(_filled(f"{i}. {text}", "   ") for i, text in enumerate(_recipe(trainer), 1))
    best = _best_threshold(metrics, trainer.architecture.thresholds)
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: object-detection
---

# Embedded {trainer.architecture.title}

{_structure(trainer)}

## Measured

On {measured} of `hetexp/assets/scenes/val`, which no training used (pycocotools; precision and
recall count a query as right at IoU 0.5 with the right class):

| figure | value |
|---|---|
{rows}

{best}    python scripts/training/train_detector.py --evaluate hetexp/assets/{name}

## Recipe

{_commands(trainer, name)}

{steps}

The scenes are composed from Noto Color Emoji (SIL Open Font License 1.1).
"""


def _filled(text: str, indent: str = "") -> str:
    """A paragraph in lines of a card's width."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _best_threshold(metrics: Mapping[str, float], thresholds: tuple[float, ...]) -> str:
    """Which threshold to take, where there are several."""
    if len(thresholds) == 1:
        return ""
    pairs = {p: [metrics[f"{share}@{p:g}"] for share in SHARES] for p in thresholds}
    harmonic = {p: 2 * math.prod(pair) / max(sum(pair), 1e-9) for p, pair in pairs.items()}
    best = max(harmonic, key=harmonic.__getitem__)
    return f"Of these thresholds {best:g} has the best F1 score ({harmonic[best]:.3f}).\n\n"


def _structure(trainer: Trainer) -> str:
    config, architecture = trainer.model.config, trainer.architecture
    count = sum(p.numel() for p in trainer.result().parameters())
    sentences = [
        f"A small but true `{architecture.model.__name__}` ({count / 1e6:.1f} M parameters) for hetexp's rendered"
        f" scenes: basic ResNet of output stride 16, d_model {config.d_model}, {config.encoder_attention_heads} heads,"
        f" {config.encoder_layers} + {config.decoder_layers} layers, {config.num_queries} queries,"
        f" {config.num_labels} COCO categories.",
        architecture.structure,
        f"Inputs have a short side of {SHORT_SIDE} and a long side of at most {LONG_SIDE} pixels.",
        "It knows emoji on rendered backgrounds and nothing else.",
        "Weights are stored in float16; loading casts them to float32." if trainer.args.half else "",
    ]
    return _filled(" ".join(sentence for sentence in sentences if sentence))


def _commands(trainer: Trainer, name: str) -> str:
    args = trainer.args
    common = f"--work WORK --scenes {args.scenes} --seed {args.seed}"
    lines = []
    if args.backbone is None:
        minutes = sum(r["minutes"] for r in _rounds(trainer))
        lines.append(f"    python scripts/training/pretrain_backbone.py {common} --minutes {minutes:g}")
    else:
        common += f" --backbone {args.backbone}"
    for i, part in enumerate(trainer.parts):
        given = [f"--{key.replace('_', '-')} {value:g}" for key, value in part.items() if key != "stopped"]
        start = ["--resume"] if i else [] if trainer.start is None else [f"--warm-start {trainer.start}"]
        half = ["--half"] if args.half else []
        command = " ".join([f"train_detector.py --architecture {name} {common}", *given, *start, *half])
        lines.append(f"    python scripts/training/{command}")
        if "stopped" in part:
            lines.append(f"\nThis command was stopped after {part['stopped']:.0f} minutes in all, and followed by\n")
    return "\n".join(lines)


def _rounds(trainer: Trainer) -> list[dict[str, float]]:
    rounds: list[dict[str, float]] = json.loads((trainer.args.work / "backbone.json").read_text(encoding="utf-8"))
    return rounds


def _recipe(trainer: Trainer) -> tuple[str, str, str]:
    """What the scenes are, and how backbone and transformer were trained."""
    args = trainer.args
    scenes = (
        f"{args.scenes:,} training scenes (seed {args.seed}; the validation scenes have another) and their mirror "
        "images."
    )
    if args.backbone is None:
        images, minutes = (sum(r[key] for r in _rounds(trainer)) for key in ("images", "minutes"))
        backbone = (
            "Backbone: per stride-16 cell the majority class, the classes present and the patches covered by the "
            f"majority object; batch normalisation trainable; {images:,} images in {minutes:g} minutes; then frozen."
        )
    else:
        backbone = f"Backbone: that of `{args.backbone}`, frozen."
    stages = [
        f"{p['groups']:g}" + (f" (no-object weight {p['no_object']:g})" if "no_object" in p else "")
        for p in trainer.parts
    ]
    start = f" Encoder and input projection start from `{trainer.start}`." if trainer.start is not None else ""
    device = f"the CPU ({args.threads} thread)" if trainer.device.type == "cpu" else trainer.device.type
    groups = ", then ".join(dict.fromkeys(stages))
    transformer = (
        f"Transformer: {trainer.architecture.loss} with auxiliary losses; groups of queries in training, of which "
        f"one is kept: {groups}; AdamW, batch {args.batch}, learning rate {args.lr:g} falling linearly to 0 after "
        f"{100 * args.constant:.0f} % of the time, moving average of weights; {trainer.step:,} steps, "
        f"{trainer.images:,} images in {trainer.seconds / 60:.0f} minutes on {device}.{start}"
    )
    return scenes, backbone, transformer
