"""Decides claims from the newest finished runs, and writes the ledger as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.evidence.ledger import Claim, Ledger
from hetexp.reporting.evidence.measurements import ITEMS, Measurements, NoSuchObjects
from hetexp.reporting.evidence.statistics import compute, get_statistic
from hetexp.reporting.evidence.verdicts import NOT_MEASURED, Decision, adjusted, decide, tally
from hetexp.reporting.latex import flowing, long_table
from hetexp.reporting.runs import Run, newest_run

# Columns of the printed ledger -> their width in LaTeX.
COLUMNS = {
    "section": "l",
    "claim": flowing(0.36),
    "verdict": "l",
    "estimate [95 %]": flowing(0.2),
    "p (Holm)": "r",
    "n": "r",
}


def decide_claims(claims: Sequence[Claim], runs: Mapping[str, Measurements | str]) -> dict[str, Decision]:
    """Decisions by claim, with p-values adjusted within families.

    Args:
        claims: of a ledger.
        runs: by experiment; a text in place of a run says why there is none.

    Raises:
        ConfigError: for an unknown statistic, and arguments that do not fit it.
        DataError: if a run does not hold what a claim is about, e.g. because it is another model's.
    """
    found = {claim.id: _decide(claim, runs) for claim in claims}
    return adjusted(found, {claim.id: claim.family for claim in claims})


def _decide(claim: Claim, runs: Mapping[str, Measurements | str]) -> Decision:
    if claim.awaits:
        return Decision(NOT_MEASURED, why=f"awaits {claim.awaits}")
    get_statistic(claim)
    mine: dict[str, Measurements] = {}
    for name in claim.data:
        run = runs[name]
        if isinstance(run, str):
            return Decision(NOT_MEASURED, why=run)
        mine[name] = run
    try:
        estimate = compute(claim, mine)
    except NoSuchObjects:
        return Decision(NOT_MEASURED, why="this data has no such objects")
    except DataError as error:
        raise DataError(f"claim {claim.id!r} cannot be decided: {error}") from error
    return decide(estimate, claim.relation, claim.margin, claim.against)


def newest_measurements(outputs: Path, ledger: Ledger) -> dict[str, Measurements | str]:
    """The newest run of every experiment that the ledger reads, or why there is none.

    Raises:
        MissingInput: if there is none at all; the message names the commands.
    """
    runs: dict[str, Measurements | str] = {}
    for name in dict.fromkeys(name for claim in ledger.claims for name in claim.data):
        try:
            runs[name] = measurements_of(newest_run(outputs, name), ledger)
        except MissingInput as error:
            runs[name] = str(error)
    if all(isinstance(run, str) for run in runs.values()):
        raise MissingInput("there is nothing to decide claims with:\n  " + "\n  ".join(map(str, runs.values())))
    return runs


def measurements_of(run: Run, ledger: Ledger) -> Measurements | str:
    """What a run left of single items, or that it left nothing."""
    if (run.folder / ITEMS).is_dir():
        return Measurements(run, ledger.resampling)
    return f"{run.folder} holds no single items, which intervals are made of: make it again with `{run.command}`"


def ledger_frame(claims: Sequence[Claim], decisions: Mapping[str, Decision]) -> pd.DataFrame:
    """A row for every claim, with full precision."""
    rows = []
    for claim in claims:
        d = decisions[claim.id]
        rows.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.text,
                "verdict": d.verdict,
                "estimate": d.estimate,
                "ci_low": d.low,
                "ci_high": d.high,
                "unit": claim.unit,
                "claimed": "" if claim.awaits else f"{claim.relation} {claim.against:g}",
                "margin": None if claim.awaits else claim.margin,
                "p": d.p,
                "p_holm": d.p_holm,
                "n": d.n,
                "family": claim.family,
                "data": ", ".join(claim.data),
                "why": d.why,
            }
        )
    return pd.DataFrame(rows).astype({"n": "Int64"})


def with_interval(value: float | None, low: float | None, high: float | None, sign: bool = False) -> str:
    """A number with its interval as printed, e.g. "−1.2 [−1.8, −0.7]"; "" without a number."""
    if value is None or pd.isna(value):
        return ""
    form = "+.2f" if sign else ".1f"
    text = format(value, form)
    if low is not None and high is not None and not pd.isna(low):
        text += f" [{low:{form}}, {high:{form}}]"
    return text.replace("-", "−")


def p_text(p: float | None) -> str:
    """A p-value as printed."""
    if p is None or pd.isna(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def printed(ledger: Ledger, decisions: Mapping[str, Decision]) -> pd.DataFrame:
    """The ledger as printed: pairs that are no neighbours and further metrics than AP are in the CSV alone."""
    shown = [c for c in ledger.claims if not c.order or c.neighbours_in_ap]
    rows = []
    for claim in shown:
        d = decisions[claim.id]
        estimate = with_interval(d.estimate, d.low, d.high, sign=True)
        rows.append(
            {
                "section": claim.section,
                "claim": claim.text,
                "verdict": d.verdict,
                "estimate [95 %]": f"{estimate} {claim.unit}" if estimate else d.why,
                "p (Holm)": p_text(d.p_holm),
                "n": "" if d.n is None else str(d.n),
            }
        )
    return pd.DataFrame(rows)


def summary(claims: Sequence[Claim], decisions: Mapping[str, Decision]) -> str:
    """How many claims have each verdict."""
    found = tally([decisions[claim.id] for claim in claims])
    return ", ".join(f"{number} {name}" for name, number in found.items() if number)


def sources(runs: Mapping[str, Measurements | str]) -> str:
    """What was measured on what."""
    read = [run.run.frame.iloc[0] for run in runs.values() if isinstance(run, Measurements)]
    return "; ".join(dict.fromkeys(f"{row['checkpoint']} on {row['data']}" for row in read))


def write_ledger(
    ledger: Ledger,
    decisions: Mapping[str, Decision],
    runs: Mapping[str, Measurements | str],
    folder: Path,
    name: str = "claims",
) -> tuple[list[Path], str]:
    """Write `<name>.csv`, `.md` and `.tex`; returns the files and the Markdown."""
    table = printed(ledger, decisions)
    resampling = ledger.resampling
    caption = (
        f"{ledger.title}, measured with {sources(runs)}: {summary(ledger.claims, decisions)}, counting every pair "
        "of an order for every metric. 95 % intervals and two-sided p-values from "
        f"{resampling.resamples} resamples of the images, the same for everything compared; p-values adjusted within "
        "each family (Holm). A claim holds or is contradicted where the whole interval says so beyond its margin."
    )
    text = "\n\n".join([caption, table.to_markdown(index=False, disable_numparse=True)]) + "\n"
    sections = table["section"].tolist() if len(table) else []
    gaps = [row for row in range(1, len(sections)) if sections[row] != sections[row - 1]]
    tex = long_table(table, caption, name, COLUMNS, gaps)
    frame = ledger_frame(ledger.claims, decisions)
    paths = [
        atomic_write(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n")),
        atomic_write(folder / f"{name}.md", text),
        atomic_write(folder / f"{name}.tex", tex),
    ]
    return paths, text
