"""Which of the paper's differences survive which choice: the ledger's claims decided under each choice of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.decide import decide_claims, with_interval
from hetexp.reporting.evidence.ledger import Claim, read_ledger
from hetexp.reporting.evidence.measurements import Measurements, Resampling
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, MARKS, Decision
from hetexp.reporting.latex import table
from hetexp.reporting.runs import Run, read_run

DETECTION, QUESTIONS = "sensitivity", "sensitivity_vqa"
DATA = {
    DETECTION: ("table1", "table2"),
    QUESTIONS: ("figure6", "table4"),
}  # experiment -> whose claims are decided anew
RESAMPLES = 1000


@dataclass(frozen=True)
class Choices:
    """The decisions under every choice.

    Attributes:
        experiment: of the run.
        claims: short text by the claim's id, in the ledger's order.
        decisions: choice -> claim's id -> decision; the first choice changes nothing.
        run: where they come from.
    """

    experiment: str
    claims: Mapping[str, str]
    decisions: Mapping[str, Mapping[str, Decision]]
    run: Run

    @property
    def baseline(self) -> Mapping[str, Decision]:
        """The decisions without any change."""
        return next(iter(self.decisions.values()))

    def turned(self, claim: str) -> list[str]:
        """The choices under which the difference of a claim has another sign, decided either way."""
        first = self.baseline[claim]
        opposite = {HOLDS: CONTRADICTED, CONTRADICTED: HOLDS}
        return [c for c, found in self.decisions.items() if found[claim].verdict == opposite.get(first.verdict)]


def read_choices(run: Run) -> Choices:
    """Decide the claims under every choice of a run.

    Raises:
        DataError: if the run has no choices, or one of them is incomplete.
    """
    experiment = str(run.frame["experiment"].iloc[0])
    if "choice" not in run.frame or experiment not in DATA:
        raise DataError(f"{run.folder} has no choices: make it with `{experiment_command(DETECTION)}`")
    folders = dict(zip(run.frame["choice"], run.frame["folder"].astype(str).str.zfill(2), strict=True))
    methods = {name: _methods(run.frame[run.frame["choice"] == name]) for name in folders}
    first = methods[next(iter(folders))]
    claims = [claim for claim in read_ledger().claims if _fits(claim, experiment, first)]
    decisions = {}
    for name, folder in folders.items():
        renamed = dict(zip(first, methods[name], strict=True))
        mine = [
            replace(c, arguments={**c.arguments, **{k: renamed[c.arguments[k]] for k in ("one", "other")}})
            for c in claims
        ]
        found = Measurements(read_run(run.folder / folder), Resampling(RESAMPLES, 0))
        decisions[str(name)] = decide_claims(mine, dict.fromkeys(DATA[experiment], found))
    return Choices(experiment, {claim.id: _short(claim) for claim in claims}, decisions, run)


def _methods(frame: pd.DataFrame) -> list[str]:
    return [str(m) for m in frame["method"].dropna().unique()]


def _fits(claim: Claim, experiment: str, methods: list[str]) -> bool:
    """Whether a claim is a difference of two of these methods that the experiment measures."""
    if claim.statistic != "difference" or not set(claim.data) <= set(DATA[experiment]):
        return False
    if claim.order and not claim.neighbours_in_ap:
        return False
    return bool(claim.order or experiment == QUESTIONS) and {claim.arguments["one"], claim.arguments["other"]} <= set(
        methods
    )


def _short(claim: Claim) -> str:
    """A claim as the heading of a column."""
    if claim.order:
        return f"{claim.pair}, {'Otsu' if claim.arguments['threshold'] == 1 else '0.3 × Otsu'}"
    panel = claim.arguments["panel"].replace("_", " ")
    what = panel if claim.arguments["metric"] == "AUC" else str(claim.arguments["metric"]).replace("_", " ")
    return f"{claim.pair}, {what.replace('auroc', 'AUROC')}"


def tidy(found: Choices) -> pd.DataFrame:
    """A row for every choice and claim."""
    return pd.DataFrame(
        {
            "choice": choice,
            "claim": claim,
            "pair": found.claims[claim],
            "verdict": d.verdict,
            "estimate": d.estimate,
            "ci_low": d.low,
            "ci_high": d.high,
            "n": d.n,
        }
        for choice, decisions in found.decisions.items()
        for claim, d in decisions.items()
    ).round(4)


def printed(found: Choices) -> pd.DataFrame:
    """Choices as rows, claims as columns; each cell a mark and the difference with its interval."""
    rows = [
        [f"{MARKS[d.verdict]} {with_interval(d.estimate, d.low, d.high, sign=True)}" for d in decisions.values()]
        for decisions in found.decisions.values()
    ]
    index = pd.Index(list(found.decisions), name="what is changed")
    return pd.DataFrame(rows, index=index, columns=list(found.claims.values()))


def sentences(found: Choices) -> list[str]:
    """For every claim, under how many choices its difference keeps its verdict, and which turn it around."""
    out = []
    others = list(found.decisions)[1:]
    for claim, text in found.claims.items():
        verdict, turned = found.baseline[claim].verdict, found.turned(claim)
        same = sum(found.decisions[c][claim].verdict == verdict for c in others)
        tail = f"; turned around by: {', '.join(turned)}" if turned else ""
        out.append(f"{text}: {verdict}; the same under {same} of {len(others)} changes{tail}.")
    return out


def caption(found: Choices) -> str:
    """What was measured on what."""
    first = found.run.frame.iloc[0]
    metric = "AP" if found.experiment == DETECTION else "AUC and AUROC"
    return (
        f"The paper's differences in {metric} under one change at a time, {first['checkpoint']} on {first['data']}, "
        f"points with 95 % intervals from {RESAMPLES} resamples of the images; positive is what the paper says. ✓ "
        "holds, ✗ contradicted, ? undecided. The first row changes nothing."
    )


def to_markdown(found: Choices) -> str:
    """The table, and what it says of every claim."""
    table = printed(found).to_markdown(disable_numparse=True)
    lines = "\n".join(f"- {sentence}" for sentence in sentences(found))
    return "\n\n".join([caption(found), table, lines, f"Made by `{found.run.command}`."]) + "\n"


def write_table(run: Run, to: Path) -> tuple[list[Path], str]:
    """Write `<experiment>.csv`, `.md` and `.tex`; returns them and the Markdown."""
    found = read_choices(run)
    text, name = to_markdown(found), found.experiment
    frame = printed(found)
    return [
        atomic_write(to / f"{name}.csv", tidy(found).to_csv(index=False, lineterminator="\n")),
        atomic_write(to / f"{name}.md", text),
        atomic_write(to / f"{name}.tex", table(frame, caption(found), name)),
    ], text
