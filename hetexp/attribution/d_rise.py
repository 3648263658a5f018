"""D-RISE: a detector as a black box, asked about randomly masked images (Petsiuk et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity, interpolate

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.input_gradient import with_features
from hetexp.attribution.items import as_features, generator_of, numbers_of, repeated, singles
from hetexp.attribution.passes import Pass, passed
from hetexp.errors import ConfigError
from hetexp.models.protocols import Adapter, Detections
from hetexp.models.trace import AttentionTrace

WEIGHTS = "d_rise"


@dataclass(frozen=True)
class MaskedPass:
    """Forward passes on masked images; the traces' features "d_rise" are the masks' weighted mean on every token."""

    masks: int
    cells: int
    kept: float
    together: int

    def __call__(
        self, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
    ) -> list[AttentionTrace]:
        """Traces of the same targets.

        Raises:
            ConfigError: for a model that is no detector of images.
        """
        if not hasattr(adapter, "detect"):
            raise ConfigError(f"d_rise compares detections, and {adapter.name} makes none: choose another method")
        return [self._of(adapter, own, trace) for own, trace in singles("d_rise", adapter, inputs, traces)]

    def _of(self, adapter: Any, inputs: Mapping[str, Tensor], trace: AttentionTrace) -> AttentionTrace:
        pixels, random = inputs["pixel_values"], generator_of(inputs)
        others = {name: x for name, x in inputs.items() if name != "pixel_values"}
        height, width = pixels.shape[2:]
        whole: Detections = trace.outputs["detections"]
        softmax = bool(adapter.has_no_object)
        total = pixels.new_zeros(trace.n_targets, height, width)
        for start in range(0, self.masks if trace.n_targets else 0, self.together):
            n = min(self.together, self.masks - start)
            masks = torch.stack([self.mask(random, height, width) for _ in range(n)]).to(pixels)
            found = adapter.detect({**repeated(others, n), "pixel_values": pixels * masks[:, None]})
            weights = torch.stack([_similarity(whole, trace.rows, other, softmax) for other in found])  # [n, k]
            total += torch.einsum("nk,nhw->khw", weights.to(masks), masks)
        layout = trace.layouts["image"]
        rows_of_grid, columns_of_grid = layout.grid
        grid = adaptive_avg_pool2d(total / self.masks, (rows_of_grid, columns_of_grid)).flatten(1)
        view = trace.views["image"]
        rows = total.new_zeros(trace.n_targets, trace.sizes[view.stream])
        places = torch.arange(rows.shape[1], device=rows.device) if view.index is None else view.index
        rows[:, places[: grid.shape[1]]] = grid  # of several levels the finest comes first
        return with_features(trace, WEIGHTS, {view.stream: as_features(rows)})

    def mask(self, random: np.random.Generator, height: int, width: int) -> Tensor:
        """One mask in 0..1 [height, width]: a coarse random grid, enlarged smoothly and shifted by up to a cell."""
        coarse = torch.from_numpy((random.random((self.cells, self.cells)) < self.kept).astype(np.float64))
        down, right = -(-height // self.cells), -(-width // self.cells)  # pixels of a cell
        size = ((self.cells + 1) * down, (self.cells + 1) * right)
        large = interpolate(coarse[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        top, left = int(random.integers(down)), int(random.integers(right))
        return large[top : top + height, left : left + width]


def _similarity(whole: Detections, rows: Tensor, other: Detections, softmax: bool) -> Tensor:
    """Of every explained row the largest IoU x cosine of class probabilities x objectness of any detection [k]."""
    wanted, _ = _probabilities(whole, softmax)
    found, objectness = _probabilities(other, softmax)
    alike = cosine_similarity(wanted[rows][:, None], found[None], dim=-1)
    return (_iou(whole.boxes[rows], other.boxes) * alike * objectness).amax(1)


def _probabilities(found: Detections, softmax: bool) -> tuple[Tensor, Tensor]:
    """Class probabilities [Q, classes], and how sure it is that there is an object [Q] (1 where no logit says so)."""
    if not softmax:
        return found.logits.sigmoid(), torch.ones_like(found.scores)
    among = found.logits.softmax(-1)
    return among, found.scores / among.amax(-1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (centre, size) [n, 4] and [m, 4], [n, m]."""
    (low_a, high_a), (low_b, high_b) = ((x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2) for x in (a, b))
    sides = torch.minimum(high_a[:, None], high_b) - torch.maximum(low_a[:, None], low_b)
    shared = sides.clamp(min=0).prod(-1)
    return shared / (a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1) - shared)


@dataclass(frozen=True)
class DRise:
    """Mean over random masks of the mask times how alike the masked image's best matching detection is.

    The map has the pixels' resolution and is averaged over each token of the (finest) grid. Masks depend on the image
    alone.

    Args:
        masks: forward passes per image; they serve all its detections.
        cells: cells of the coarse grid along a side.
        kept: probability that a cell is kept.
        together: images of one forward pass; it decides nothing but the time.
    """

    masks: int = 1000
    cells: int = 16
    kept: float = 0.5
    together: int = 16
    corrections: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if min(self.masks, self.cells, self.together) < 1 or not 0 < self.kept < 1:
            raise ConfigError(
                f"masks={self.masks}, cells={self.cells}, together={self.together} of d_rise must be at least 1, and "
                f"kept={self.kept} between 0 and 1"
            )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (MaskedPass(self.masks, self.cells, self.kept, self.together),)

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every stream with sources for the explained tokens, [k, N] each."""
        return numbers_of(passed(trace, self.passes[0]), WEIGHTS)
