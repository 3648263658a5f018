"""Tables 3 and 4: measures against the ground truth, all methods and controls, as a whole and part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting import latex
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE, decided_best, items_of
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.names import first_control, in_order, method_name
from hetexp.reporting.runs import Run


@dataclass(frozen=True)
class MeasureTable:
    """What a table of measures shows.

    Attributes:
        experiment: whose results it shows.
        title: what was measured.
        panel: of the whole; its parts are called "<panel>/<part>".
        measures: metric -> heading, with an arrow to the better side.
        parts: the measures that are shown part by part as well.
        items: what is counted.
    """

    experiment: str
    title: str
    panel: str
    measures: Mapping[str, str]
    parts: tuple[str, ...]
    items: str

    def frame(self, run: Run) -> pd.DataFrame:
        """Its rows of results.csv.

        Raises:
            DataError: if the run did not measure this.
        """
        panels = run.frame["panel"].fillna("").astype(str)
        fitting = (panels == self.panel) | panels.str.startswith(f"{self.panel}/")
        frame = run.frame[fitting & run.frame["metric"].isin(list(self.measures))]
        if not (frame["panel"] == self.panel).any():
            raise DataError(
                f"{run.folder / 'results.csv'} has no {self.panel}: make a run with "
                f"`{experiment_command(self.experiment)}`"
            )
        return frame

    def whole(self, run: Run) -> pd.DataFrame:
        """Methods as rows, measures as columns, with intervals."""
        frame = self.frame(run)
        return _pivot(frame[frame["panel"] == self.panel], "metric", self.measures)

    def by_part(self, run: Run, measure: str) -> pd.DataFrame:
        """Methods as rows, parts with their numbers of items as columns, for one measure."""
        frame = self.frame(run)
        frame = frame[(frame["metric"] == measure) & (frame["panel"] != self.panel)]
        sizes = frame.groupby("panel", sort=False)["n"].first()
        headings = {str(panel): f"{str(panel).partition('/')[2]} ({int(n)})" for panel, n in sizes.items()}
        return _pivot(frame, "panel", headings)

    def caption(self, run: Run) -> str:
        """What was measured on what."""
        frame = self.frame(run)
        first, number = frame.iloc[0], int(frame.loc[frame["panel"] == self.panel, "n"].max())
        return (
            f"{self.title} Percent with 95 % intervals over images; {number} {self.items} of {first['data']}, "
            f"checkpoint {first['checkpoint']}. ↑ larger is better, ↓ smaller is better. Controls stand last."
        )


DETECTION = MeasureTable(
    "table3",
    "Table 3: relevance of detections against the masks of the objects, without a threshold.",
    "ground_truth",
    {
        "AUPRC": "AUPRC ↑",
        "AUROC": "AUROC ↑",
        "pointing_game": "Pointing game ↑",
        "relevance_rank_accuracy": "Rank accuracy ↑",
        "area_matched_iou": "Area-matched IoU ↑",
        "energy_target": "On target ↑",
        "energy_sibling": "On siblings ↓",
        "energy_other": "On others ↓",
        "energy_background": "On background ↓",
    },
    ("AUPRC", "energy_target", "energy_sibling"),
    "detected objects",
)
QUESTIONS = MeasureTable(
    "table4",
    "Table 4: relevance of words and regions against those that decide the answer.",
    "localisation",
    {
        "word_rank": "Word rank ↓",
        "word_auroc": "Word AUROC ↑",
        "pointing_game": "Pointing game ↑",
        "relevance_mass_accuracy": "Mass accuracy ↑",
        "region_auroc": "Region AUROC ↑",
    },
    ("word_auroc", "pointing_game", "relevance_mass_accuracy", "region_auroc"),
    "questions at most",
)

TEXT = MeasureTable(
    "deciding_tokens",
    "Deciding tokens: relevance of source tokens against those that decide the written word.",
    "deciding_tokens",
    {"AUROC": "AUROC ↑", "AUPRC": "AUPRC ↑", "rank": "Rank ↓"},
    ("AUROC",),
    "written words",
)
TEXT_PERTURBATION = MeasureTable(
    "text_perturbation",
    "Text perturbation: area under the written word's probability as source tokens are removed.",
    "text_perturbation",
    {"negative": "Least relevant first ↑", "positive": "Most relevant first ↓"},
    (),
    "written words",
)
DELETION = MeasureTable(
    "deletion",
    "Insertion and deletion: areas under the class's logit and the box's IoU as cells go or come by relevance.",
    "deletion",
    {
        "deletion_class": "Deletion, class ↓",
        "deletion_box": "Deletion, box ↓",
        "insertion_class": "Insertion, class ↑",
        "insertion_box": "Insertion, box ↑",
    },
    (),
    "detections",
)


def to_markdown(table: MeasureTable, run: Run) -> str:
    """The table, and one for every measure shown part by part."""
    parts = [table.caption(run), table.whole(run).to_markdown(disable_numparse=True)]
    for measure in table.parts:
        by_part = table.by_part(run, measure)
        if by_part.shape[1]:
            parts += [f"{table.measures[measure]}, part by part (with the number of items):"]
            parts += [by_part.to_markdown(disable_numparse=True)]
    return "\n\n".join([*parts, f"Made by `{run.command}`."]) + "\n"


def to_latex(table: MeasureTable, run: Run) -> str:
    """The whole table: best methods in bold, controls below a rule."""
    frame, items = table.frame(run), items_of(run)
    frame = frame[frame["panel"] == table.panel]
    order = in_order(set(frame["method"]))
    bold = set()
    whole = table.whole(run)
    for column, (metric, heading) in enumerate((m, h) for m, h in table.measures.items() if h in whole.columns):
        values = frame[frame["metric"] == metric].set_index("method")["value"].to_dict()
        if items is not None:
            estimate = partial(items.estimate, panel=table.panel, metric=metric)
            best = decided_best(values, estimate, smaller=heading.endswith("↓"))
            bold |= {(order.index(best), column)} if best else set()
    about = table.caption(run).partition(": ")[2]
    text = f"{about[:1].upper()}{about[1:]} {NOTE}"
    return latex.table(whole, text, table.experiment, bold=bold, rules=first_control(order))


def write_table(table: MeasureTable, run: Run, folder: Path) -> tuple[list[Path], str]:
    """Write `<experiment>.csv` (every part, tidy), `.md` and `.tex`; returns the files and the Markdown."""
    columns = ["panel", "method", "metric", "value", "ci_low", "ci_high", "n"]
    text, name = to_markdown(table, run), table.experiment
    tidy = table.frame(run)[columns].round(4)
    return [
        atomic_write(folder / f"{name}.csv", tidy.to_csv(index=False, lineterminator="\n")),
        atomic_write(folder / f"{name}.md", text),
        atomic_write(folder / f"{name}.tex", to_latex(table, run)),
    ], text


def _pivot(frame: pd.DataFrame, by: str, headings: Mapping[str, str]) -> pd.DataFrame:
    cells: dict[tuple[str, str], str] = {}
    for row in frame.to_dict("records"):
        text = with_interval(row["value"], row["ci_low"], row["ci_high"])
        cells[str(row["method"]), str(row[by])] = text or "n/a"
    order = in_order({method for method, _ in cells})
    shown = [key for key in headings if any((m, key) in cells for m in order)]
    rows = [[cells.get((m, key), "n/a") for key in shown] for m in order]
    index = pd.Index([method_name(m) for m in order], name="method")
    return pd.DataFrame(rows, columns=[headings[key] for key in shown], index=index)
