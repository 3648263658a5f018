"""From relevance to a place on a colour scale: each map's own range, one range for several maps, or decades of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hetexp.reporting.contrast import Contrast

DECADES = 3  # below the largest relevance that a logarithmic scale shows
NEGLIGIBLE = 0.01  # of the largest span of a row: less is under three of the 256 colours of a shared scale
NEGATIVE = -0.25  # place on a signed scale below which relevance is marked as negative, for those who see no colour
NEAR_ZERO, CONSTANT, NOT_FINITE = "≈ 0", "constant", "not finite"


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Attributes:
        low: what the darkest colour stands for; signed and logarithmic scales have none.
        high: what the last colour stands for.
        signed: whether colours diverge about 0, from -high to high.
        log: whether they go by decades of `high`.
    """

    low: float
    high: float
    signed: bool = False
    log: bool = False

    def unit(self, relevance: np.ndarray) -> np.ndarray:
        """Places of relevance on the scale, of any shape: 0 to 1, or signed -1 to 1."""
        values = np.asarray(relevance, dtype=np.float64)
        if self.log:
            with np.errstate(divide="ignore"):
                grown = np.clip(1 + np.log10(np.abs(values) / self.high) / DECADES, 0, 1)
            return np.asarray(np.sign(values) * grown if self.signed else np.where(values > 0, grown, 0.0))
        if self.signed:
            return np.asarray(np.clip(values / self.high, -1, 1))
        return np.asarray(np.clip((values - self.low) / (self.high - self.low), 0, 1))


# A map's scale, or what is said in place of the map: that it is near zero, constant or not finite.
Shown = Scale | str


def scales_of(
    maps: Sequence[np.ndarray], signed: bool, contrast: Contrast = Contrast.own, together: bool = False
) -> list[Shown]:
    """Scales of maps that have one unit, such as those of one method.

    A map whose span is at most `NEGLIGIBLE` of the largest span, or nothing at all, has no scale: stretching it would
    make a picture of next to nothing.

    Args:
        maps: of any shapes; the span of a signed one is its largest size, that of others maximum minus minimum.
        signed: whether colours diverge about 0.
        together: whether one range stands for all of them, whatever the contrast.
    """
    finite = [m for m in maps if np.isfinite(m).all() and m.size]
    widest = max((_span(m, signed) for m in finite), default=0.0)
    largest = max((float(np.abs(m).max()) for m in finite), default=0.0)
    least, most = min((float(m.min()) for m in finite), default=0.0), max((float(m.max()) for m in finite), default=0.0)
    shown: list[Shown] = []
    for m in maps:
        if not m.size or not np.isfinite(m).all():
            shown.append(NOT_FINITE)
        elif _span(m, signed) <= NEGLIGIBLE * widest:
            shown.append(NEAR_ZERO if np.abs(m).max() <= NEGLIGIBLE * largest else CONSTANT)
        else:
            of = np.array([least, most]) if together or contrast is Contrast.shared else m
            high = float(np.abs(of).max() if signed else of.max())
            log = contrast is Contrast.log
            # decades of nothing positive are nothing
            shown.append(NEAR_ZERO if log and high <= 0 else Scale(float(of.min()), high, signed, log))
    return shown


def own_scale(relevance: np.ndarray, signed: bool) -> Shown:
    """The scale of a map that is looked at alone."""
    return scales_of([relevance], signed)[0]


def _span(relevance: np.ndarray, signed: bool) -> float:
    return float(np.abs(relevance).max() if signed else np.ptp(relevance))
