"""From an estimate and a margin to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hetexp.evaluation.bootstrap import Estimate, holm

HOLDS, CONTRADICTED, UNDECIDED, NOT_MEASURED = "holds", "contradicted", "undecided", "not measured"
VERDICTS = (HOLDS, CONTRADICTED, UNDECIDED, NOT_MEASURED)
MARKS = {HOLDS: "✓", CONTRADICTED: "✗", UNDECIDED: "?", NOT_MEASURED: "–"}

Relation = Literal[">", "≥", "≈", "≤", "<"]
RELATIONS: tuple[Relation, ...] = (">", "≥", "≈", "≤", "<")


@dataclass(frozen=True)
class Decision:
    """What was found about one claim.

    Attributes:
        verdict: one of VERDICTS.
        estimate: of the claim's statistic, None if it was not measured; the same for the numbers below.
        low: lower end of its interval.
        high: upper end of its interval.
        p: two-sided p-value of the statistic being what separates the claim from its opposite.
        p_holm: the same, adjusted for the claim's family.
        n: items behind it.
        why: why it was not measured, with the command that would.
    """

    verdict: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n: int | None = None
    why: str = ""


def verdict(relation: Relation, low: float, high: float, margin: float, against: float = 0.0) -> str:
    """Whether an interval decides that a statistic stands in a relation to `against`.

    A difference smaller than the margin counts as none. ">" holds if the whole interval lies above the margin, "≥" if
    it lies above minus the margin, "≈" if it lies within the margin on either side; ">" and "≥" are contradicted if it
    lies below minus the margin, "≈" if it lies outside on one side. Anything else is undecided.
    """
    low, high = low - against, high - against
    if relation in ("<", "≤"):
        low, high = -high, -low
    if math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if relation == "≈":
        if -margin <= low and high <= margin:
            return HOLDS
        return CONTRADICTED if low > margin or high < -margin else UNDECIDED
    if low > (margin if relation in (">", "<") else -margin):
        return HOLDS
    return CONTRADICTED if high < -margin else UNDECIDED


def decide(estimate: Estimate, relation: Relation, margin: float, against: float = 0.0) -> Decision:
    """The decision on one claim by itself; `adjusted` adds its family."""
    low, high = estimate.interval()
    found = verdict(relation, low, high, margin, against)
    return Decision(found, estimate.value, low, high, estimate.p_value(against), None, estimate.n)


def adjusted(decisions: Mapping[str, Decision], families: Mapping[str, str]) -> dict[str, Decision]:
    """Decisions by claim with p-values adjusted within each family of claims."""
    out = dict(decisions)
    for family in dict.fromkeys(families.values()):
        members = [claim for claim in decisions if families[claim] == family]
        values = holm([math.nan if (p := decisions[claim].p) is None else p for claim in members])
        for claim, value in zip(members, values, strict=True):
            out[claim] = replace(out[claim], p_holm=None if math.isnan(value) else value)
    return out


def tally(decisions: Sequence[Decision]) -> dict[str, int]:
    """How many decisions have each verdict."""
    return {name: sum(d.verdict == name for d in decisions) for name in VERDICTS}
