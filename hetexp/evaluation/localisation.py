"""Does relevance fall on the objects and words that are known to decide an answer?

Regions are scored with the mask of the deciding objects, as CLEVR-XAI does with pixels: relevance mass accuracy (Arras
et al. 2022, doi:10.1016/j.inffus.2021.11.008) and the pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def coverage(boxes: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Fraction of each box covered by a mask.

    Args:
        boxes: [R, 4] as x1, y1, x2, y2 in units of the image's sides.
        mask: [H, W].

    Returns:
        [R] in 0..1; boxes are rounded outwards to at least one pixel.
    """
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    scale = np.array([width, height])
    low = np.clip(np.floor(boxes[:, :2] * scale).astype(int), 0, scale - 1)
    high = np.clip(np.ceil(boxes[:, 2:] * scale).astype(int), low + 1, scale)
    (x1, y1), (x2, y2) = low.T, high.T
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return np.asarray(inside / ((x2 - x1) * (y2 - y1)))


def relevance_mass_accuracy(relevance: Floats, covered: Floats) -> float | None:
    """Share of the positive relevance that falls on the mask (Arras et al. 2022).

    A region's relevance is spread evenly over its box.

    Args:
        relevance: [R].
        covered: [R], fraction of each region on the mask, see `coverage`.

    Returns:
        The share in 0..1, or None if no relevance is positive.
    """
    positive = np.maximum(relevance, 0)
    total = positive.sum()
    return float(positive @ covered / total) if total > 0 else None


def pointing_game(relevance: Floats, boxes: Floats, mask: NDArray[np.bool_]) -> bool:
    """Whether the centre of the most relevant region lies on the mask (Zhang et al. 2018, without a tolerance margin).

    Args:
        relevance: [R]; the first of equal maxima counts.
        boxes: [R, 4] as x1, y1, x2, y2 in units of the image's sides.
        mask: [H, W].
    """
    x1, y1, x2, y2 = boxes[int(np.argmax(relevance))]
    height, width = mask.shape
    column = min(int((x1 + x2) / 2 * width), width - 1)
    row = min(int((y1 + y2) / 2 * height), height - 1)
    return bool(mask[row, column])


def word_rank(relevance: Floats, deciding: Collection[int]) -> float | None:
    """Mean rank of the deciding tokens among all words, 0 = most relevant, 1 = least; 0.5 is chance.

    Args:
        relevance: [T] with CLS first and SEP last, which do not take part; ties share their mean rank.
        deciding: positions of the deciding tokens in 0..T-1.

    Returns:
        None if there is no deciding token or only one word.
    """
    words = relevance[1:-1]
    if not deciding or len(words) < 2:
        return None
    ranks = rankdata(-words) - 1
    return float(np.mean([ranks[i - 1] for i in deciding]) / (len(words) - 1))
