"""What claims are decided by: each statistic is a function of runs on disk, registered by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hetexp.errors import ConfigError
from hetexp.evaluation.bootstrap import Estimate
from hetexp.reporting.evidence.ledger import Claim
from hetexp.reporting.evidence.measurements import Measurements

Statistic = Callable[..., Estimate]


def difference(
    runs: Mapping[str, Measurements],
    *,
    one: str,
    other: str,
    panel: str,
    metric: str,
    threshold: float | None = None,
    smaller_is_better: bool = False,
) -> Estimate:
    """How much better `one` is than `other`, paired by image, in points."""
    (run,) = runs.values()
    found = run.estimate(one, panel, metric, threshold) - run.estimate(other, panel, metric, threshold)
    return -found if smaller_is_better else found


def change(
    runs: Mapping[str, Measurements], *, one: str, other: str, panel: str, metric: str, thresholds: Mapping[str, float]
) -> Estimate:
    """How much more `one` is ahead of `other` in the first run than in the second, in points.

    `thresholds` says at which threshold each run is read.
    """
    first, second = (runs[name] for name in thresholds)
    at_first, at_second = thresholds.values()
    ahead = [
        run.estimate(one, panel, metric, at) - run.estimate(other, panel, metric, at)
        for run, at in ((first, at_first), (second, at_second))
    ]
    return ahead[0] - ahead[1]


def share(
    runs: Mapping[str, Measurements],
    *,
    one: str,
    other: str,
    panel: str,
    metric: str,
    smaller_is_better: bool = False,
) -> Estimate:
    """Share of items where `one` is better than `other`, in percent; ties count half."""
    (run,) = runs.values()
    joined = run.paired(run.values(one, panel, metric), run.values(other, panel, metric))
    gap = joined["value"] - joined["other"]
    better = (gap < 0) if smaller_is_better else (gap > 0)
    return run.mean(joined.assign(value=better + 0.5 * (gap == 0)))


def value(
    runs: Mapping[str, Measurements], *, method: str, panel: str, metric: str, threshold: float | None = None
) -> Estimate:
    """A number of a run itself, in percent."""
    (run,) = runs.values()
    return run.estimate(method, panel, metric, threshold)


def between(
    runs: Mapping[str, Measurements], *, method: str, panel: str, metric: str, threshold: float | None = None
) -> Estimate:
    """How much larger a number of a method is in the first run than in the second, in points; images are the same."""
    first, second = runs.values()
    return first.estimate(method, panel, metric, threshold) - second.estimate(method, panel, metric, threshold)


def across(
    runs: Mapping[str, Measurements], *, method: str, panel: str, metric: str, thresholds: Sequence[float]
) -> Estimate:
    """How much larger a number of a method is at the first threshold than at the second, in points."""
    (run,) = runs.values()
    first, second = (run.estimate(method, panel, metric, at) for at in thresholds)
    return first - second


def scaled_difference(
    runs: Mapping[str, Measurements], *, one: str, other: str, low: str, high: str, panel: str, metric: str
) -> Estimate:
    """How much better `one` is than `other`, in percent of the way from `low` to `high`, whichever is larger."""
    (run,) = runs.values()
    a, b, bottom, top = (run.estimate(method, panel, metric) for method in (one, other, low, high))
    return in_percent_of(a - b, top - bottom)


def in_percent_of(part: Estimate, whole: Estimate) -> Estimate:
    """100 part / whole, resample by resample; not finite where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = 100 * part.resampled / whole.resampled
    return Estimate(100 * part.value / whole.value if whole.value else math.nan, resampled, part.n)


# Name, as a claim's `statistic` gives it -> function of (runs by experiment, the claim's arguments).
STATISTICS: dict[str, Statistic] = {
    s.__name__: s for s in (difference, change, share, value, between, across, scaled_difference)
}


def compute(claim: Claim, runs: Mapping[str, Measurements]) -> Estimate:
    """The statistic of a claim.

    Raises:
        ConfigError: for an unknown statistic, or arguments that it does not take.
        DataError: if a run lacks what it needs.
    """
    statistic = get_statistic(claim)
    try:
        return statistic(runs, **claim.arguments)
    except TypeError as error:
        given: dict[str, Any] = dict(claim.arguments)
        raise ConfigError(f"claim {claim.id!r}: statistic {claim.statistic} does not fit {given} ({error})") from error


def get_statistic(claim: Claim) -> Statistic:
    """The statistic that a claim names.

    Raises:
        ConfigError: for an unknown one; the message lists the known ones.
    """
    if claim.statistic not in STATISTICS:
        raise ConfigError(
            f"claim {claim.id!r} names statistic {claim.statistic!r}, which does not exist: choose among "
            f"{', '.join(STATISTICS)}"
        )
    return STATISTICS[claim.statistic]
