"""Tables, figures and the report as callable products: each finds what it is made of on disk, without a model.

make_tables(Path("outputs"), ["table1"])
make_figures(Path("outputs"), None)  # all whose runs or samples are there
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from hetexp.errors import ConfigError
from hetexp.reporting import (
    board,
    detectors,
    ground_truth,
    leaderboard,
    perturbation,
    perturbation_models,
    tables,
)
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.contrast import Contrast
from hetexp.reporting.evidence import choices, rival
from hetexp.reporting.evidence.decide import decide_claims, newest_measurements, write_ledger
from hetexp.reporting.evidence.ledger import read_ledger
from hetexp.reporting.evidence.page import write_page
from hetexp.reporting.figures import curves
from hetexp.reporting.figures.choices import write_choices
from hetexp.reporting.figures.detectors import write_detectors
from hetexp.reporting.figures.leaderboard import write_leaderboard
from hetexp.reporting.figures.mechanism import write_mechanism
from hetexp.reporting.figures.of_samples import SAMPLE_FIGURES, SampleFigure
from hetexp.reporting.figures.perturbation_models import write_models
from hetexp.reporting.figures.randomisation import write_randomisation
from hetexp.reporting.figures.style import save
from hetexp.reporting.figures.text_perturbation import write_text_perturbation
from hetexp.reporting.report import write_report
from hetexp.reporting.runs import Run, by_otsu, newest_run, read_run
from hetexp.reporting.samples import read_samples
from hetexp.reporting.structures import TASK, write_structures

__all__ = ["FIGURES", "TABLES", "Product", "decide", "make_figures", "make_tables", "write_report"]

log = logging.getLogger("hetexp")


@dataclass(frozen=True)
class Product:
    """A table or figure as it was written.

    Attributes:
        name: as in TABLES or FIGURES.
        paths: the files written.
        source: folder of the run, or of the samples, that it was made of.
        text: a table as Markdown; "" for a figure.
    """

    name: str
    paths: list[Path]
    source: Path
    text: str = ""


class Maker(Protocol):
    """Makes one product."""

    def reads(self, run: Run) -> bool:
        """Whether it is made of such a run's results."""

    def __call__(self, outputs: Path, to: Path, results: Path | None = None) -> Product:
        """Write the product's files into the folder `to`.

        Args:
            outputs: folder below which the newest run, or the samples, are looked for.
            results: a run's folder or `results.csv` to use instead of the newest run.

        Raises:
            MissingInput: if there is no such run or sample.
            DataError: if it is damaged or incomplete.
        """


@dataclass(frozen=True)
class OfRun:
    """A product of one experiment's results; `write` returns the files and, for a table, its Markdown."""

    name: str
    experiment: str
    write: Callable[[Run, Path], tuple[list[Path], str]]

    def reads(self, run: Run) -> bool:
        return self.experiment in set(run.frame["experiment"])

    def __call__(self, outputs: Path, to: Path, results: Path | None = None) -> Product:
        run = newest_run(outputs, self.experiment) if results is None else by_otsu(read_run(results))
        paths, text = self.write(run, to)
        return Product(self.name, paths, run.folder, text)


@dataclass(frozen=True)
class OfSamples:
    """A figure of samples."""

    name: str
    figure: SampleFigure
    contrast: Contrast = Contrast.own

    def reads(self, run: Run) -> bool:
        return False

    def __call__(self, outputs: Path, to: Path, results: Path | None = None) -> Product:
        if results is not None:
            raise ConfigError(
                f"{self.name} is drawn from the samples below {outputs}, not from results={results}: leave results out"
            )
        found = read_samples(outputs, self.figure.kind)
        without = self.figure.without(found)
        if without:
            log.warning("%s: %s", self.name, without)
        stem = self.name if self.contrast is Contrast.own else f"{self.name}_{self.contrast}"
        return Product(self.name, save(self.figure.draw(found, self.contrast), to / stem), found.folder)


@dataclass(frozen=True)
class OfRuns:
    """A product of several runs at once, which it finds below a folder itself."""

    name: str
    experiments: tuple[str, ...]
    write: Callable[[Path, Path], tuple[list[Path], str]]

    def reads(self, run: Run) -> bool:
        return False

    def __call__(self, outputs: Path, to: Path, results: Path | None = None) -> Product:
        if results is not None:
            raise ConfigError(
                f"{self.name} is made of all runs of {' and '.join(self.experiments)} below {outputs}, not of "
                f"results={results}: leave results out"
            )
        paths, text = self.write(outputs, to)
        return Product(self.name, paths, outputs, text)


def _compared(number: int) -> OfRun:
    def write(run: Run, to: Path) -> tuple[list[Path], str]:
        table = tables.compare(run, number)
        return tables.write_table(table, to), tables.to_markdown(table)

    return OfRun(f"table{number}", f"table{number}", write)


def _by_name(makers: Iterable[OfRun | OfRuns | OfSamples]) -> dict[str, Maker]:
    return {maker.name: maker for maker in makers}


TABLES = _by_name(
    [
        _compared(1),
        _compared(2),
        OfRun("table3", "table3", partial(ground_truth.write_table, ground_truth.DETECTION)),
        OfRun("table4", "table4", partial(ground_truth.write_table, ground_truth.QUESTIONS)),
        OfRun("deciding_tokens", "deciding_tokens", partial(ground_truth.write_table, ground_truth.TEXT)),
        OfRun(
            "text_perturbation", "text_perturbation", partial(ground_truth.write_table, ground_truth.TEXT_PERTURBATION)
        ),
        OfRun("detectors", detectors.EXPERIMENT, detectors.write_table),
        OfRun("deletion", "deletion", partial(ground_truth.write_table, ground_truth.DELETION)),
        OfRun("unit_free", "unit_free", partial(rival.write_table, rival.DETECTION)),
        OfRun("unit_free_vqa", "unit_free_vqa", partial(rival.write_table, rival.QUESTIONS)),
        OfRun("sensitivity", choices.DETECTION, choices.write_table),
        OfRun("sensitivity_vqa", choices.QUESTIONS, choices.write_table),
        OfRuns("leaderboard", board.EXPERIMENTS, leaderboard.write_table),
        OfRun("figure6", "figure6", lambda run, to: (perturbation.write_table(run, to), perturbation.to_markdown(run))),
        OfRun("figure6_models", perturbation_models.EXPERIMENT, perturbation_models.write_table),
    ]
)
_FIGURES: list[OfRun | OfRuns | OfSamples] = [
    *(OfSamples(name, figure) for name, figure in SAMPLE_FIGURES.items()),
    OfRuns("figure1", (TASK,), lambda outputs, to: (write_structures(outputs, to), "")),
    OfRun("figure6", "figure6", lambda run, to: (curves.write_perturbation(run, to), "")),
    OfRun("figure6_models", perturbation_models.EXPERIMENT, lambda run, to: (write_models(run, to), "")),
    OfRun("text_perturbation", "text_perturbation", lambda run, to: (write_text_perturbation(run, to), "")),
    OfRun("detectors", detectors.EXPERIMENT, lambda run, to: (write_detectors(run, to), "")),
    OfRuns("leaderboard", board.EXPERIMENTS, lambda outputs, to: (write_leaderboard(outputs, to), "")),
    OfRun("threshold_sweep", "threshold_sweep", lambda run, to: (curves.write_sweep(run, to), "")),
    OfRun("mechanism", "mechanism", lambda run, to: (write_mechanism(run, to), "")),
    OfRun("randomisation", "randomisation", lambda run, to: (write_randomisation(run, to), "")),
    OfRun("sensitivity", choices.DETECTION, lambda run, to: (write_choices(run, to), "")),
    OfRun("sensitivity_vqa", choices.QUESTIONS, lambda run, to: (write_choices(run, to), "")),
]
FIGURES = _by_name(sorted(_FIGURES, key=lambda maker: maker.name))


def make_tables(
    outputs: Path, names: Sequence[str] | None = None, to: Path | None = None, results: Path | None = None
) -> list[Product]:
    """Write tables as CSV, Markdown and LaTeX.

    Args:
        outputs: folder of the runs.
        names: of TABLES; None stands for all whose results are there.
        to: folder to write into; None is `<outputs>/tables`.
        results: a run's folder or `results.csv` to use instead of the newest run.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
        DataError: if results are missing, damaged or incomplete; the message names the command that makes them.
    """
    return _make("table", TABLES, outputs, names, to or outputs / "tables", results)


def make_figures(
    outputs: Path,
    names: Sequence[str] | None = None,
    to: Path | None = None,
    results: Path | None = None,
    contrast: Contrast = Contrast.own,
) -> list[Product]:
    """Draw figures as PNG and PDF, and as CSV those that are curves.

    Arguments and errors are those of `make_tables`, with FIGURES and `<outputs>/figures`. Figures of samples take no
    `results`.

    Args:
        contrast: of the figures of relevance; any but `own` makes these alone, as `<name>_<contrast>`.

    Raises:
        ConfigError: also for a contrast of figures that show no relevance.
    """
    known: Mapping[str, Maker] = FIGURES
    if contrast is not Contrast.own:
        known = _by_name(
            replace(maker, contrast=contrast)
            for maker in FIGURES.values()
            if isinstance(maker, OfSamples) and maker.figure.of_maps
        )
        without = [name for name in names or () if name in FIGURES and name not in known]
        if without:
            raise ConfigError(f"figure.contrast={contrast} is for {', '.join(known)}, not for {', '.join(without)}")
    return _make("figure", known, outputs, names, to or outputs / "figures", results)


def decide(outputs: Path, to: Path | None = None, claims: Path | None = None) -> Product:
    """Decide every claim of the paper from the newest runs: the ledger as CSV, Markdown and LaTeX, and a page of it.

    Args:
        outputs: folder of the runs.
        to: folder to write into; None is `<outputs>/tables`, and `<outputs>/report` for the page.
        claims: a file of other claims, whose tables are named like it; there is no page of these.

    Raises:
        MissingInput: if no run is there that any claim is about; the message names the commands.
        DataError: if a run does not hold what a claim is about.
    """
    ledger = read_ledger() if claims is None else replace(read_ledger(claims), title=f"The claims of {claims.name}")
    runs = newest_measurements(outputs, ledger)
    decisions = decide_claims(ledger.claims, runs)
    name = "claims" if claims is None else claims.stem
    paths, text = write_ledger(ledger, decisions, runs, to or outputs / "tables", name)
    if claims is None:
        paths.append(write_page(ledger, decisions, runs, outputs, (to or outputs / "report") / "evidence.html"))
    return Product(name, paths, outputs, text)


def _make(
    what: str, known: Mapping[str, Maker], outputs: Path, names: Sequence[str] | None, to: Path, results: Path | None
) -> list[Product]:
    if names is None:
        return _make_all(what, known, outputs, to, results)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        asked = f"unknown {what} {', '.join(map(repr, unknown))}" if unknown else f"no {what} is named"
        raise ConfigError(f"{asked}: choose among {', '.join(known)}")
    return [known[name](outputs, to, results) for name in dict.fromkeys(names)]


def _make_all(what: str, known: Mapping[str, Maker], outputs: Path, to: Path, results: Path | None) -> list[Product]:
    """Everything that can be made of what is on disk."""
    if results is not None:
        run = read_run(results)
        fitting = [maker for maker in known.values() if maker.reads(run)]
        if not fitting:
            experiments = ", ".join(sorted(set(run.frame["experiment"].dropna()))) or "no experiment"
            raise ConfigError(f"{results} holds {experiments}: name what to make of it, {what}s=[{', '.join(known)}]")
        return [maker(outputs, to, results) for maker in fitting]
    made, missing = [], {}
    for name, maker in known.items():
        try:
            made.append(maker(outputs, to))
        except MissingInput as error:
            missing[name] = str(error)
    if not made:
        raise MissingInput(f"there is nothing to make a {what} of:\n  " + "\n  ".join(dict.fromkeys(missing.values())))
    for name, message in missing.items():
        log.info("left out: %s (%s)", name, message)
    return made
