"""The paper's statements about orders of methods, tested on measured numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from hetexp.reporting.names import method_name
from hetexp.reporting.published import METRICS, PublishedTable

HOLDS, FAILS, UNKNOWN = "holds", "does not hold on this data", "cannot be tested"


@dataclass(frozen=True)
class Claim:
    """One pair of methods that the paper puts in an order, for one metric."""

    metric: str
    better: str
    worse: str
    relation: str  # ">" or "≥"
    difference: float | None  # better - worse as measured, in percentage points
    neighbours: bool  # next to each other in the paper's order

    @property
    def verdict(self) -> str:
        if self.difference is None:
            return UNKNOWN
        return HOLDS if self.difference > 0 or (self.relation == "≥" and self.difference == 0) else FAILS

    @property
    def text(self) -> str:
        return f"{method_name(self.better)} {self.relation} {method_name(self.worse)}"


def pair_claims(table: PublishedTable, measured: Mapping[tuple[str, str], float | None]) -> list[Claim]:
    """Every pair of the paper's order, for every metric.

    Args:
        measured: (metric, method) -> percent; None or absent where the data has no value.
    """
    claims = []
    for metric in METRICS:
        for i, j in combinations(range(len(table.chain)), 2):
            better, worse = table.chain[i], table.chain[j]
            one, other = measured.get((metric, better)), measured.get((metric, worse))
            difference = None if one is None or other is None else one - other
            relation = ">" if ">" in table.relations[i:j] else "≥"
            claims.append(Claim(metric, better, worse, relation, difference, j == i + 1))
    return claims


def order_text(table: PublishedTable) -> str:
    """The whole order, e.g. "A ≥ B > C"."""
    parts = [method_name(table.chain[0])]
    for relation, method in zip(table.relations, table.chain[1:], strict=True):
        parts += [relation, method_name(method)]
    return " ".join(parts)


def measured_order(table: PublishedTable, measured: Mapping[tuple[str, str], float | None], metric: str) -> str | None:
    """The order found on this data, best first; None without values."""
    found = [(value, m) for m in table.chain if (value := measured.get((metric, m))) is not None]
    if len(found) < len(table.chain):
        return None
    return " > ".join(method_name(m) for _, m in sorted(found, key=lambda pair: -pair[0]))


def counts(claims: list[Claim], metric: str) -> tuple[int, int, int]:
    """(pairs that hold, pairs that could be tested, all pairs) of a metric."""
    mine = [c for c in claims if c.metric == metric]
    return sum(c.verdict == HOLDS for c in mine), sum(c.verdict != UNKNOWN for c in mine), len(mine)
