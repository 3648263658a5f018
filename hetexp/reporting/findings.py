"""What the report says first: three sentences with the numbers, computed, that decide them or leave them open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, NOT_MEASURED, UNDECIDED, Decision
from hetexp.reporting.names import PANEL_NAMES, in_order, is_control, method_name
from hetexp.reporting.perturbation import BEATS_RANDOM, against_random, auc_rows
from hetexp.reporting.runs import Run
from hetexp.reporting.tables import ComparedTable

METRIC = "AP"
REMOVED = {
    "image_negative": "least relevant regions go",
    "image_positive": "most relevant regions go",
    "text_negative": "least relevant words go",
    "text_positive": "most relevant words go",
}

Pair = tuple[str, str]


def findings(tables: Sequence[ComparedTable], figure6: Run | None) -> list[str]:
    """Whether the paper's orders hold, whether the threshold changes them, and whether maps beat random order."""
    return [orders(tables), turns(tables), removal(figure6)]


def orders(tables: Sequence[ComparedTable]) -> str:
    """How many pairs of the paper's orders hold in AP, and the clearest one that is contradicted."""
    decided = [(t, claim, d) for t in tables for claim, d in t.claims if claim.arguments["metric"] == METRIC]
    measured = [(t, claim, d) for t, claim, d in decided if d.verdict != NOT_MEASURED]
    if not measured:
        return "Whether the paper's orders of methods hold is not measured here."
    counts = {v: sum(d.verdict == v for *_, d in measured) for v in (HOLDS, CONTRADICTED, UNDECIDED)}
    where = " and ".join(dict.fromkeys(f"Table {t.published.number}" for t, *_ in measured))
    images = ", ".join(dict.fromkeys(f"{t.images} images of {t.data}" for t, *_ in measured))
    total = len(measured)
    if counts[UNDECIDED] == total:
        return f"None of the paper's {total} orders of two methods by {METRIC} ({where}) is decided on {images}."
    text = (
        f"Of the paper's {total} orders of two methods by {METRIC} ({where}), {counts[HOLDS]} hold on {images}, "
        f"{_are(counts[CONTRADICTED])} contradicted and {_are(counts[UNDECIDED])} undecided"
    )
    against = [(t, claim, d) for t, claim, d in measured if d.verdict == CONTRADICTED]
    if not against:
        return f"{text}."
    table, claim, found = max(against, key=lambda one: abs(one[2].estimate or 0.0))
    return (
        f"{text}; most clearly contradicted is {claim.pair} at {_scale(table)}: "
        f"{_points(found, claim.arguments['one'], claim.arguments['other'])}."
    )


def turns(tables: Sequence[ComparedTable]) -> str:
    """How many pairs of methods change places between the thresholds of two tables, each decided at both."""
    if len(tables) < 2:
        return "Whether the threshold changes the order of methods is not measured here: it takes Tables 1 and 2."
    first, second = tables[0], tables[1]
    ahead, behind = _differences(first), _differences(second)
    both = [pair for pair in ahead if pair in behind]
    turned = [p for p in both if _sign(ahead[p]) * _sign(behind[p]) < 0]
    thresholds = f"{_scale(first)} and {_scale(second)}"
    if not turned:
        return f"None of {len(both)} pairs of methods is decided to change places between {thresholds}."
    best = max(turned, key=lambda p: abs((ahead[p][0].estimate or 0) - (behind[p][0].estimate or 0)))
    one, other = best if _sign(ahead[best]) > 0 else best[::-1]
    return (
        f"The threshold decides the ranking: {len(turned)} of {len(both)} pairs of methods change places between "
        f"{thresholds}, most of all {method_name(one)} and {method_name(other)}, with "
        f"{_points(ahead[best][0], *best)} at the first and {_points(behind[best][0], *best)} at the second."
    )


def removal(run: Run | None) -> str:
    """How many methods beat random order in every panel of Figure 6, and the panel where one is furthest ahead."""
    if run is None:
        return "Whether relevance beats random order when words and regions are removed is not measured here."
    frame = auc_rows(run)
    verdicts = {key: v for key, v in against_random(frame).items() if not is_control(key[0])}
    if not verdicts:
        return "Against random order nothing is decided: the control was not part of the perturbation test."
    methods = in_order({method for method, _ in verdicts})
    everywhere = [m for m in methods if all(v == BEATS_RANDOM for (of, _), v in verdicts.items() if of == m)]
    beaten = [key for key, verdict in verdicts.items() if verdict == BEATS_RANDOM]
    text = (
        f"When the words and regions of {int(frame['n'].max())} questions are removed in the order of their relevance, "
        f"{len(everywhere) or 'none'} of {len(methods)} methods {'beats' if len(everywhere) < 2 else 'beat'} random "
        f"order in all {len(PANEL_NAMES)} panels"
    )
    if not beaten:
        return f"{text}, and no method is decided to beat it in any."
    rows = {(str(r["method"]), str(r["panel"])): r for _, r in frame.iterrows()}
    method, panel = max(beaten, key=lambda key: abs(rows[key]["value"] - rows["random", key[1]]["value"]))
    shown = (rows[method, panel], rows["random", panel])
    mine, control = (with_interval(row["value"], row["ci_low"], row["ci_high"]) for row in shown)
    return (
        f"{text}; furthest from it is {method_name(method)} where the {REMOVED[panel]} first, with an AUC of {mine} "
        f"against {control}."
    )


def _differences(table: ComparedTable) -> dict[Pair, tuple[Decision, float]]:
    """Pair of methods, by name -> the decision on the first minus the second, in AP, and the margin.

    Every table has a pair in the order of its own claims; here the first is the one that comes first in print.
    """
    found = {}
    for claim, decision in table.claims:
        if claim.arguments["metric"] == METRIC and decision.estimate is not None:
            one, other = claim.arguments["one"], claim.arguments["other"]
            straight = in_order([one, other])[0] == one
            pair = (one, other) if straight else (other, one)
            found[pair] = (decision if straight else _negated(decision), claim.margin)
    return found


def _negated(d: Decision) -> Decision:
    estimate, low, high = (None if value is None else -value for value in (d.estimate, d.high, d.low))
    return replace(d, estimate=estimate, low=low, high=high)


def _sign(difference: tuple[Decision, float]) -> int:
    """1 or −1 where the whole interval lies beyond the margin, else 0."""
    found, margin = difference
    if found.low is None or found.high is None:
        return 0
    return int(found.low > margin) - int(found.high < -margin)


def _points(d: Decision, one: str, other: str) -> str:
    """ "GAE ahead by 3.2 [2.6, 3.9] points", whichever of the two is; `d` is on the first minus the second."""
    if (d.estimate or 0) < 0:
        one, d = other, _negated(d)
    return f"{method_name(one)} ahead by {with_interval(d.estimate, d.low, d.high)} points"


def _scale(table: ComparedTable) -> str:
    scale = table.published.scale
    return "Otsu's threshold" if scale == 1 else f"{scale:g} times Otsu's"


def _are(number: int) -> str:
    return f"{number or 'none'} {'is' if number == 1 else 'are'}"
