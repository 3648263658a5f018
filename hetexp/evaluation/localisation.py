"""Does relevance fall on what is known to decide an answer, or to be detected? Measures without any threshold.

Tokens (cells of a grid, regions, words) carry the share of them that lies on the target. For cells of a grid the
measures below are those of CLEVR-XAI and of the segmentation literature on pixels, with each cell's relevance constant
over its pixels; a fraction of a cell counts as that fraction of its pixels. Relevance mass and rank accuracy: Arras et
al. 2022 (doi:10.1016/j.inffus.2021.11.008); pointing game: Zhang et al. 2018 (doi:10.1007/s11263-017-1059-x).

A map without relevance is never left out: it ranks nothing (AUROC 0.5, rank accuracy and AUPRC at chance), none of its
relevance is on the target (mass 0), and it points nowhere (a miss).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from hetexp.errors import InputError

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


def auroc(relevance: Floats, inside: Floats) -> float:
    """Probability that a point on the target has more relevance than one beside it; ties count half.

    Args:
        relevance: [n].
        inside: [n], the share of each token on the target, in 0..1.

    Returns:
        0.5 also where everything or nothing is on the target.
    """
    on, beside = _by_level(relevance, inside)
    if on.sum() == 0 or beside.sum() == 0:
        return 0.5
    below = np.cumsum(beside[::-1])[::-1] - beside
    return float(on @ (below + beside / 2) / (on.sum() * beside.sum()))


def auprc(relevance: Floats, inside: Floats) -> float:
    """Average precision of points on the target, ranked by relevance: the sum of precision times gained recall.

    Args:
        relevance: [n].
        inside: [n], see `auroc`; at least one token is on the target.

    Returns:
        A map without relevance gets the target's share of all tokens.
    """
    on, beside = _by_level(relevance, inside)
    _check_target(on)
    hits, taken = on.cumsum(), (on + beside).cumsum()
    return float((on * hits / taken).sum() / on.sum())


def relevance_rank_accuracy(relevance: Floats, inside: Floats) -> float:
    """Share of the target among as many most relevant points as the target has (Arras et al. 2022).

    Args:
        relevance: [n]; where equal relevance competes for the last places, each takes part in proportion.
        inside: [n], see `auprc`.
    """
    on, beside = _by_level(relevance, inside)
    _check_target(on)
    size = on + beside
    before = size.cumsum() - size
    taken = np.clip((on.sum() - before) / size, 0, 1)
    return float((taken * on).sum() / on.sum())


def area_matched_iou(rank_accuracy: float) -> float:
    """IoU of the target and the most relevant area of its size, which follows from the rank accuracy a: a / (2 - a)."""
    return rank_accuracy / (2 - rank_accuracy)


def relevance_mass_accuracy(relevance: Floats, covered: Floats) -> float:
    """Share of the positive relevance that falls on the target (Arras et al. 2022).

    A token's relevance is spread evenly over it.

    Args:
        relevance: [R].
        covered: [R], the share of each token on the target, see `coverage`.

    Returns:
        The share in 0..1; 0 if no relevance is positive.
    """
    positive = np.maximum(relevance, 0)
    total = positive.sum()
    return float(positive @ covered / total) if total > 0 else 0.0


def pointing_game(relevance: Floats, boxes: Floats, mask: NDArray[np.bool_]) -> bool:
    """Whether the centre of the most relevant token lies on the mask (Zhang et al. 2018, without a tolerance margin).

    Args:
        relevance: [R]; the first of equal maxima counts; relevance that is the same everywhere misses.
        boxes: [R, 4] as x1, y1, x2, y2 in units of the image's sides.
        mask: [H, W].
    """
    if np.ptp(relevance) == 0:
        return False
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
    from scipy.stats import rankdata  # half a second to load, which most runs need not wait for

    ranks = rankdata(-words) - 1
    return float(np.mean([ranks[i - 1] for i in deciding]) / (len(words) - 1))


def word_auroc(relevance: Floats, deciding: Collection[int]) -> float | None:
    """`auroc` of the deciding tokens among all words.

    Args:
        relevance: [T] with CLS first and SEP last, which do not take part.
        deciding: positions of the deciding tokens in 0..T-1.

    Returns:
        None if no word decides, or all do.
    """
    inside = np.zeros(len(relevance))
    inside[list(deciding)] = 1
    words = inside[1:-1]
    return auroc(relevance[1:-1], words) if 0 < words.sum() < len(words) else None


def _by_level(relevance: Floats, inside: Floats) -> tuple[Floats, Floats]:
    """What lies on and beside the target at each distinct relevance, from the largest down."""
    if relevance.shape != inside.shape or relevance.ndim != 1 or not len(relevance):
        raise InputError(f"expected a share for each token, got shapes {relevance.shape} and {inside.shape}")
    if not np.isfinite(relevance).all():
        raise InputError("relevance holds NaN or infinity: set such a map to 0 and count it")
    _, level = np.unique(-relevance, return_inverse=True)
    on: Floats = np.bincount(level, inside).astype(np.float64)
    beside: Floats = np.bincount(level, 1 - inside).astype(np.float64)
    return on, beside


def _check_target(on: Floats) -> None:
    if on.sum() <= 0:
        raise InputError("nothing is on the target: leave such a target out for all methods alike")
