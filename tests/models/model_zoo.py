"""A small random model of every supported architecture, with inputs and targets.

The models are those that the tests compare with the oracle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sampled_models
import test_blip
import test_conditional_detr
import test_dense_detectors
import test_encoder_decoders
import test_joint_streams
import test_owl
import test_two_towers
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

DETECTIONS = [(0, 1), (1, 2), (0, 3)]  # targets: index of the logit, query
SENTENCE = [(4, 1), (7, 3), (5, 4)]


@dataclass(frozen=True)
class Entry:
    """One model: how to make it, its inputs, and its targets as (index of the logit, query or None)."""

    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Tensor]]
    targets: list[tuple[int, int | None]]

    def write(self, folder: Path) -> None:
        """Save model and inputs in float32, and the targets."""
        disable_progress_bar()
        self.build().float().save_pretrained(folder)
        inputs = {k: v.float() if v.is_floating_point() else v for k, v in self.inputs().items()}
        save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "inputs.safetensors")
        (folder / "targets.json").write_text(json.dumps(self.targets), encoding="utf-8")


def _detector(build: Callable[[], Any], side: tuple[int, int] = (64, 96)) -> Entry:
    return Entry(build, lambda: {"pixel_values": tiny.picture(*side)}, [*DETECTIONS])


def _writer(name: str) -> Entry:
    case = test_encoder_decoders.CASES[name]
    return Entry(
        case.build, lambda: {**case.read(), "decoder_input_ids": test_encoder_decoders.PREFIX.clone()}, [*SENTENCE]
    )


def _vilt_inputs() -> dict[str, Tensor]:
    words, masks = test_joint_streams.words(1, 5), torch.ones(1, 32, 32).long()
    return {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "pixel_values": tiny.picture(32, 32),
        "pixel_mask": masks,
    }


ANSWERS: list[tuple[int, int | None]] = [(2, None), (5, None), (1, None)]
TEXTS: list[tuple[int, int | None]] = [(0, 0), (1, 0), (2, 1)]

# Name of the architecture in hetexp's registry -> entry.
ZOO: dict[str, Entry] = {
    "detr": _detector(tiny.tiny_detr),
    "conditional_detr": _detector(test_conditional_detr.tiny),
    "dab-detr": _detector(lambda: test_dense_detectors.CASES["dab"].model(0)),
    "table-transformer": _detector(lambda: test_dense_detectors.CASES["table"].model(0)),
    "yolos": _detector(lambda: test_dense_detectors.CASES["yolos"].model(0)),
    **{
        name: _detector(lambda name=name: sampled_models.CASES[name].build(0))  # type: ignore[misc]
        for name in ("deformable_detr", "rt_detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr", "rf_detr")
    },
    "owlvit": Entry(lambda: test_owl.build(test_owl.KINDS[0]), test_owl.inputs_of, [*DETECTIONS]),
    "owlv2": Entry(lambda: test_owl.build(test_owl.KINDS[1]), test_owl.inputs_of, [*DETECTIONS]),
    "lxmert": Entry(tiny.tiny_lxmert, lambda: tiny.question(6, 5), ANSWERS),
    "visual_bert": Entry(
        test_joint_streams.visual_bert,
        lambda: {"input_ids": test_joint_streams.words(1, 5), "visual_embeds": test_joint_streams.regions(2, 4)},
        ANSWERS,
    ),
    "vilt": Entry(test_joint_streams.vilt, _vilt_inputs, ANSWERS),
    "blip": Entry(test_blip.blip, test_blip.inputs_of, [(4, 0), (7, 1), (5, 2)]),
    "bart": _writer("bart"),
    "marian": _writer("marian"),
    "t5": _writer("t5"),
    "whisper": _writer("whisper"),
    "vision-encoder-decoder": _writer("trocr_vit"),
    "clip": Entry(test_two_towers.clip, test_two_towers.inputs_of, TEXTS),
    "siglip": Entry(test_two_towers.siglip, test_two_towers.inputs_of, TEXTS),
}
