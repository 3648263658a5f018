"""Perturbation test (arXiv 2605.27458, Section 5.2): what stays when the most or least relevant tokens are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetexp.errors import InputError

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
# (modality, positive): positive removes the most relevant tokens first
PANELS = {
    "image_negative": ("image", False),
    "image_positive": ("image", True),
    "text_negative": ("text", False),
    "text_positive": ("text", True),
}


@dataclass(frozen=True)
class Variant:
    """What of an input is fed: positions of text tokens (CLS and SEP always) and of regions, ascending.

    Regions carry their boxes and no position, so their order decides nothing; ascending order lets equal subsets of
    different methods share one forward pass.
    """

    text: tuple[int, ...]
    regions: tuple[int, ...]


def n_kept(n: int, fraction: float) -> int:
    """Tokens kept of n at a removed fraction, int((1 - f) n) with Python's own rounding, as in GAE's code."""
    return int((1 - fraction) * n)


def kept_positions(relevance: Tensor, fraction: float, positive: bool) -> tuple[int, ...]:
    """Positions that stay, ascending: those of lowest relevance (positive) or of highest (negative).

    Args:
        relevance: [n], compared in float32.

    Raises:
        InputError: for relevance that is not finite, which has no order.
    """
    if not bool(relevance.isfinite().all()):
        raise InputError("relevance holds NaN or infinite values: tokens cannot be ranked by it")
    scores = relevance.float()
    kept = torch.topk(-scores if positive else scores, n_kept(len(scores), fraction)).indices
    return tuple(sorted(kept.tolist()))


def variants(text: Tensor, image: Tensor) -> dict[tuple[str, float], Variant]:
    """Every perturbed input of one sample.

    Args:
        text: relevance of all text tokens with CLS first and SEP last [T]; these two always stay.
        image: relevance of the regions [R].

    Returns:
        (panel, fraction) -> what is fed.
    """
    all_text, all_regions = tuple(range(len(text))), tuple(range(len(image)))
    out = {}
    for panel, (modality, positive) in PANELS.items():
        for fraction in FRACTIONS:
            if modality == "image":
                out[panel, fraction] = Variant(all_text, kept_positions(image, fraction, positive))
            else:
                inner = kept_positions(text[1:-1], fraction, positive)
                out[panel, fraction] = Variant((0, *(i + 1 for i in inner), len(text) - 1), all_regions)
    return out


def soft_scores(answers: NDArray[np.int64], labels: list[Mapping[str, float]], names: list[str]) -> NDArray[np.float64]:
    """Soft score of every predicted answer: answers [questions, ...] -> scores of the same shape."""
    out = np.zeros(answers.shape)
    for row, label in enumerate(labels):
        flat = answers[row].reshape(-1)
        out[row] = np.array([label.get(names[a], 0.0) for a in flat]).reshape(answers[row].shape)
    return out
