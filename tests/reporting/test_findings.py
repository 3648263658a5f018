from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, NOT_MEASURED, UNDECIDED, Decision
from hetexp.reporting.findings import findings
from hetexp.reporting.runs import Run, newest_run
from hetexp.reporting.tables import ComparedTable, compare


def both(outputs: Path) -> list[ComparedTable]:
    return [compare(newest_run(outputs, f"table{n}"), n) for n in (1, 2)]


def decided(table: ComparedTable, decision: Decision) -> ComparedTable:
    """The table with the same decision on every claim."""
    return replace(table, claims=[(claim, decision) for claim, _ in table.claims])


def said(tables: Sequence[ComparedTable], run: Run | None) -> list[str]:
    found = findings(tables, run)
    assert len(found) == 3
    assert all(sentence.endswith(".") and not re.search(r"[.!?] [A-Z]", sentence) for sentence in found)
    return found


def test_numbers_come_from_the_runs(outputs: Path) -> None:
    tables, run = both(outputs), newest_run(outputs, "figure6")
    first, second, third = said(tables, run)
    claims = [d.verdict for t in tables for c, d in t.claims if c.arguments["metric"] == "AP"]
    assert f"20 orders of two methods by AP (Table 1 and Table 2), {claims.count(HOLDS)} hold on 300 images" in first
    assert f"{claims.count(UNDECIDED)} are undecided" in first
    # the fixture's values are the paper's
    gap = tables[0].published.value("AP", "gae") - tables[0].published.value("AP", "ours_abs")
    assert "Ours (abs)" in second
    assert f"GAE ahead by {gap:.1f} [" in second
    # the fixture gives a method the same area in all panels; it cannot be good both where more and where less is
    assert "of 300 questions" in third
    assert "none of 5 methods beats random order in all 4 panels" in third
    assert re.search(r"; furthest from it is Ours \(noised\) where the least relevant \w+ go first, ", third)
    assert third.endswith("with an AUC of 63.0 [62.0, 64.0] against 55.0 [54.0, 56.0].")


def test_what_is_contradicted_is_named_with_its_interval(outputs: Path) -> None:
    table = both(outputs)[0]
    claims = list(table.claims)
    claim, _ = claims[0]
    claims[0] = claim, Decision(CONTRADICTED, -1.17, -1.78, -0.55)
    first, *_ = said([replace(table, claims=claims)], None)
    assert "1 is contradicted" in first
    assert first.endswith("Ours (noised) ≥ GAE at Otsu's threshold: GAE ahead by 1.2 [0.6, 1.8] points.")


def test_nothing_decided_is_said(outputs: Path) -> None:
    tables = [decided(t, Decision(UNDECIDED, 0.1, -0.4, 0.6)) for t in both(outputs)]
    run = newest_run(outputs, "figure6")
    frame = run.frame.copy()
    frame.loc[frame["metric"] == "AUC", ["value", "ci_low", "ci_high"]] = [55.0, 50.0, 60.0]
    first, second, third = said(tables, Run(run.folder, frame))
    assert first.startswith("None of the paper's 20 orders of two methods by AP")
    assert "is decided" in first
    assert second.startswith("None of 10 pairs of methods is decided to change places")
    assert "no method is decided to beat it in any" in third


def test_what_was_not_measured_is_said(outputs: Path) -> None:
    for sentence in said([], None):
        assert "not measured" in sentence
    (table, _) = both(outputs)
    first, second, _ = said([decided(table, Decision(NOT_MEASURED, why="no items"))], None)
    assert "not measured" in first
    assert "it takes Tables 1 and 2" in second
    run = newest_run(outputs, "figure6")
    without = Run(run.folder, pd.DataFrame(run.frame[run.frame["method"] != "random"]))
    assert "nothing is decided" in said([], without)[2]
