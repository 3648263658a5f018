"""One method against every other of a run, measure by measure, on the same resamples of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetexp.evaluation.bootstrap import Estimate
from hetexp.files import atomic_write
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.evidence.measurements import Measurements, Resampling
from hetexp.reporting.evidence.verdicts import verdict
from hetexp.reporting.latex import table
from hetexp.reporting.names import in_order, method_name
from hetexp.reporting.runs import Run

MARKS = {"holds": "+", "contradicted": "−", "undecided": "="}
RESAMPLES = 1000


@dataclass(frozen=True)
class Measure:
    """A number that methods are compared by.

    Attributes:
        heading: of its column.
        panel: of results.csv.
        metric: of results.csv.
        threshold: multiple of Otsu's threshold; None for a measure without one, "best" for each method's best.
        smaller: whether smaller is better.
        margin: what counts as no difference, in points.
    """

    heading: str
    panel: str
    metric: str
    threshold: float | str | None = None
    smaller: bool = False
    margin: float = 0.5


@dataclass(frozen=True)
class Rivalry:
    """What is compared in an experiment: variants of one method against the rest."""

    experiment: str
    title: str
    measures: Sequence[Measure]
    rival: str = "unit_free"

    def decide(self, run: Run) -> pd.DataFrame:
        """A row for every variant of the rival, other method and measure.

        Raises:
            DataError: if the run did not measure this.
        """
        found = Measurements(run, Resampling(RESAMPLES, 0))
        methods = in_order(str(m) for m in run.frame["method"].dropna().unique())
        mine = [m for m in methods if m.partition("(")[0] == self.rival or "row_sum=" in m]
        rows = []
        for measure in self.measures:
            numbers = {m: _estimate(found, m, measure) for m in methods}
            for one in mine:
                for other in (one, *(m for m in methods if m not in mine)):
                    gap = numbers[one] if other == one else _ahead(numbers[one], numbers[other], measure)
                    low, high = gap.interval()
                    decided = "" if other == one else verdict(">", low, high, measure.margin)
                    rows.append((one, other, measure.heading, gap.value, low, high, decided, gap.n))
        columns = ["method", "against", "measure", "value", "ci_low", "ci_high", "verdict", "n"]
        return pd.DataFrame(rows, columns=columns)


def _ahead(one: Estimate, other: Estimate, measure: Measure) -> Estimate:
    return other - one if measure.smaller else one - other


def _estimate(found: Measurements, method: str, measure: Measure) -> Estimate:
    if measure.threshold != "best":
        at = None if measure.threshold is None else float(measure.threshold)
        return found.estimate(method, measure.panel, measure.metric, at)
    frame = found.run.frame
    mine = frame[(frame["method"] == method) & (frame["metric"] == measure.metric) & frame["threshold"].notna()]
    best = float(mine.loc[mine["value"].astype(float).idxmax(), "threshold"])
    return found.estimate(method, measure.panel, measure.metric, best)


DETECTION = Rivalry(
    "unit_free",
    "The unit-free method of this project against published ones, detections.",
    [
        Measure("AP, Otsu ↑", "segm", "AP", 1.0, margin=0.3),
        Measure("AP, 0.3 × Otsu ↑", "segm", "AP", 0.3, margin=0.3),
        Measure("AP, best scale ↑", "segm", "AP", "best", margin=0.3),
        Measure("AUPRC ↑", "ground_truth", "AUPRC"),
        Measure("Pointing game ↑", "ground_truth", "pointing_game"),
        Measure("On target ↑", "ground_truth", "energy_target"),
        Measure("On siblings ↓", "ground_truth/with siblings", "energy_sibling", smaller=True),
    ],
)
QUESTIONS = Rivalry(
    "unit_free_vqa",
    "The unit-free method of this project against published ones, questions.",
    [
        Measure("Regions, negative ↑", "image_negative", "AUC"),
        Measure("Regions, positive ↓", "image_positive", "AUC", smaller=True),
        Measure("Words, negative ↑", "text_negative", "AUC"),
        Measure("Words, positive ↓", "text_positive", "AUC", smaller=True),
        Measure("Word AUROC ↑", "localisation", "word_auroc"),
        Measure("Pointing game ↑", "localisation", "pointing_game"),
        Measure("Mass accuracy ↑", "localisation", "relevance_mass_accuracy"),
    ],
)


def to_markdown(rivalry: Rivalry, run: Run, frame: pd.DataFrame) -> str:
    """A table for each variant: its own numbers, then how far it is ahead of every other method.

    Args:
        rivalry: what is compared.
        run: that `frame` is decided from.
        frame: `rivalry.decide(run)`.
    """
    first = run.frame.iloc[0]
    parts = [
        f"{rivalry.title} {first['checkpoint']} on {first['data']}; 95 % intervals from {RESAMPLES} resamples of the "
        "images. The first row holds the method's own numbers, in percent; the others how much better it is, in "
        "points: + better, − worse, = neither, beyond a margin of 0.3 points of AP and 0.5 of the rest. The best scale "
        "is that of each method on these data."
    ]
    for method in frame["method"].unique():
        parts += [f"**{method_name(str(method))}**", _pivot(frame, str(method)).to_markdown(disable_numparse=True)]
    return "\n\n".join([*parts, f"Made by `{run.command}`."]) + "\n"


def _pivot(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    mine = frame[frame["method"] == method]
    cells = {
        (row.against, row.measure): f"{MARKS.get(str(row.verdict), '')} "
        f"{with_interval(row.value, row.ci_low, row.ci_high, sign=row.against != method)}".strip()
        for row in mine.itertuples()
    }
    others, headings = mine["against"].unique(), mine["measure"].unique()
    names = ["itself" if o == method else f"against {method_name(str(o))}" for o in others]
    return pd.DataFrame([[cells[o, h] for h in headings] for o in others], index=names, columns=list(headings))


def write_table(rivalry: Rivalry, run: Run, to: Path) -> tuple[list[Path], str]:
    """Write `<experiment>.csv`, `.md` and `.tex` (the first variant); returns them and the Markdown."""
    frame, name = rivalry.decide(run), rivalry.experiment
    text = to_markdown(rivalry, run, frame)
    first = _pivot(frame, str(frame["method"].iloc[0]))
    return [
        atomic_write(to / f"{name}.csv", frame.round(4).to_csv(index=False, lineterminator="\n")),
        atomic_write(to / f"{name}.md", text),
        atomic_write(to / f"{name}.tex", table(first, rivalry.title, name)),
    ], text
