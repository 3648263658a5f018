"""Tables 1 and 2 beside the paper's own, with intervals, and its orders decided pair by pair on the data measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from hetexp.errors import ConfigError, DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE, decided_best
from hetexp.reporting.evidence.decide import decide_claims, measurements_of, p_text, with_interval
from hetexp.reporting.evidence.ledger import Claim, Order, read_ledger
from hetexp.reporting.evidence.measurements import Measurements
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, MARKS, NOT_MEASURED, UNDECIDED, Decision
from hetexp.reporting.latex import escape, fitted, tabular
from hetexp.reporting.latex import table as latex_table
from hetexp.reporting.names import PAPER_METHODS, in_order, is_control, method_name
from hetexp.reporting.published import METRICS, PAPER_DATA, PAPER_DATA_NAME, SOURCE, TABLES, PublishedTable
from hetexp.reporting.runs import Run


@dataclass(frozen=True)
class ComparedTable:
    """A measured table, the published one and the claims."""

    published: PublishedTable
    methods: list[str]  # those of the paper that the run has, then whatever else was measured
    measured: dict[tuple[str, str], float | None]  # (metric, method) -> percent
    intervals: dict[tuple[str, str], tuple[float, float]]  # the same -> ends of its interval, where it has one
    order: Order
    claims: list[tuple[Claim, Decision]]  # every pair of the order, for every metric
    best: dict[str, str]  # metric -> the method that is decidedly the best here
    data: str
    checkpoint: str
    images: int
    run: Run

    @property
    def same_data(self) -> bool:
        """Whether the measured numbers come from the paper's own data set."""
        return self.data == PAPER_DATA_NAME

    @property
    def note(self) -> str:
        """What the marked columns are, and which of the paper's methods the run lacks."""
        absent = [method_name(m) for m in PAPER_METHODS if m not in self.methods]
        lacking = f" Not in this run: {', '.join(absent)}." if absent else ""
        if self.same_data:
            return f"† published by the paper ({SOURCE}) on {PAPER_DATA}.{lacking}"
        return (
            f"† published by the paper ({SOURCE}) on another data set ({PAPER_DATA}): only the order of methods can be "
            f"compared, not the numbers.{lacking}"
        )

    @property
    def caption(self) -> str:
        """What was measured on what."""
        return (
            f"Table {self.published.number}: {self.published.title}. Percent, measured on {self.data} "
            f"({self.images} images) with checkpoint {self.checkpoint}."
        )


def compare(run: Run, number: int) -> ComparedTable:
    """Put a run's numbers beside the paper's.

    Raises:
        ConfigError: for a table the paper does not have.
        DataError: if the run lacks the table's threshold, or all of the paper's methods there.
    """
    if number not in TABLES:
        raise ConfigError(f"table {number} does not exist: choose among {', '.join(map(str, TABLES))}")
    published = TABLES[number]
    frame = run.frame[(run.frame["panel"] == "segm") & ((run.frame["threshold"] - published.scale).abs() < 1e-9)]
    of_paper = [m for m in PAPER_METHODS if m in set(frame["method"])]
    if not of_paper:
        raise DataError(
            f"{run.folder / 'results.csv'} has none of {', '.join(PAPER_METHODS)} at threshold {published.scale}: "
            f"make a complete run with `{experiment_command(published.experiment)}`"
        )
    measured: dict[tuple[str, str], float | None] = {}
    intervals: dict[tuple[str, str], tuple[float, float]] = {}
    for row in frame.itertuples():
        key = str(row.metric), str(row.method)
        measured[key] = None if pd.isna(row.value) else float(row.value)
        if pd.notna(row.ci_low):
            intervals[key] = float(row.ci_low), float(row.ci_high)
    ledger = read_ledger()
    pairs = ledger.of_order(published.experiment)
    items = measurements_of(run, ledger)
    known = [claim for claim in pairs if {claim.arguments["one"], claim.arguments["other"]} <= set(of_paper)]
    decisions = decide_claims(known, {published.experiment: items})
    unknown = Decision(NOT_MEASURED, why="this run lacks a method of the pair")
    best: dict[str, str] = {}
    if isinstance(items, Measurements):
        for metric in METRICS:
            values = {method: value for (of, method), value in measured.items() if of == metric}
            estimate = partial(items.estimate, panel="segm", metric=metric, threshold=published.scale)
            found = decided_best(values, estimate)
            best |= {} if found is None else {metric: found}
    return ComparedTable(
        published,
        [*of_paper, *in_order(set(frame["method"]) - set(PAPER_METHODS))],
        measured,
        intervals,
        ledger.orders[published.experiment],
        [(claim, decisions.get(claim.id, unknown)) for claim in pairs],
        best,
        data=str(frame["data"].iloc[0]),
        checkpoint=str(frame["checkpoint"].iloc[0]),
        images=int(frame["n"].iloc[0]),
        run=run,
    )


def one_decimal(value: float | None, absent: str = "n/a") -> str:
    """A percentage as printed; `absent` where the data has no such value."""
    return absent if value is None else f"{value:.1f}"


def wide(table: ComparedTable) -> pd.DataFrame:
    """Metrics as rows; a measured column for every method, and a published (†) one beside the paper's; one decimal."""
    return _columns(table, lambda metric, method: one_decimal(table.measured.get((metric, method))))


def with_intervals(table: ComparedTable) -> pd.DataFrame:
    """The same with intervals, e.g. "19.7 [18.4, 21.0]"."""

    def cell(metric: str, method: str) -> str:
        value, ends = table.measured.get((metric, method)), table.intervals.get((metric, method), (None, None))
        return with_interval(value, *ends) or one_decimal(None)

    return _columns(table, cell)


def _columns(table: ComparedTable, cell: Callable[[str, str], str]) -> pd.DataFrame:
    names: list[str] = []
    columns: list[list[str]] = []
    for method in table.methods:
        names.append(method_name(method))
        columns.append([cell(m, method) for m in METRICS])
        if method in PAPER_METHODS:
            names.append(f"{method_name(method)} †")
            columns.append([one_decimal(table.published.value(m, method)) for m in METRICS])
    rows = list(zip(*columns, strict=True))  # not a dictionary by name: two methods may carry the same label
    return pd.DataFrame(rows, columns=names, index=pd.Index(METRICS, name="metric"))


def csv_frame(table: ComparedTable) -> pd.DataFrame:
    """The wide table, then both ends of every measured interval."""
    names = [f"{method_name(m)} {end}" for m in table.methods for end in ("low", "high")]
    ends = [
        [one_decimal(end) for m in table.methods for end in table.intervals.get((metric, m), (None, None))]
        for metric in METRICS
    ]
    return pd.concat([wide(table), pd.DataFrame(ends, columns=names, index=pd.Index(METRICS, name="metric"))], axis=1)


def claims_frame(table: ComparedTable, marks: bool = False) -> pd.DataFrame:
    """Neighbours of the paper's order as rows, metrics as columns: the verdict and the difference with its interval.

    Args:
        table: that holds them.
        marks: whether a sign stands for the verdict, as in "✓ +1.2 [+0.8, +1.6]".
    """
    rows: dict[str, dict[str, str]] = {}
    for claim, found in table.claims:
        if claim.neighbours:
            difference = with_interval(found.estimate, found.low, found.high, sign=True)
            cell = f"{found.verdict} ({difference})" if difference else found.verdict
            if marks:
                cell = f"{MARKS[found.verdict]} {difference}".strip()
            rows.setdefault(claim.pair, {})[claim.arguments["metric"]] = cell
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(METRICS)).rename_axis("claim of the paper")


def measured_order(table: ComparedTable, metric: str) -> str | None:
    """The order found on this data, best first; None without values."""
    found = [(value, m) for m in table.order.methods if (value := table.measured.get((metric, m))) is not None]
    if len(found) < len(table.order.methods):
        return None
    return " > ".join(method_name(m) for _, m in sorted(found, key=lambda pair: -pair[0]))


def verdicts_of(table: ComparedTable, metric: str) -> dict[str, list[str]]:
    """Verdict -> the pairs of the order, of one metric, that have it."""
    found: dict[str, list[str]] = {HOLDS: [], CONTRADICTED: [], UNDECIDED: [], NOT_MEASURED: []}
    for claim, decision in table.claims:
        if claim.arguments["metric"] == metric:
            found[decision.verdict].append(claim.pair)
    return found


def summaries(table: ComparedTable) -> Iterator[str]:
    """One sentence per metric: how many of all pairs hold, which are contradicted or undecided, and the order found."""
    for metric in METRICS:
        found = verdicts_of(table, metric)
        total = sum(map(len, found.values()))
        if len(found[NOT_MEASURED]) == total:
            why = next(d.why for c, d in table.claims if c.arguments["metric"] == metric)
            yield f"{metric}: not decided ({why})."
            continue
        text = f"{metric}: {len(found[HOLDS])} of {total} pairs hold"
        for verdict in (CONTRADICTED, UNDECIDED, NOT_MEASURED):
            if found[verdict]:
                text += f"; {verdict}: {', '.join(found[verdict])}"
        order = measured_order(table, metric)
        yield text + (f". Found here: {order}." if order else ".")


def margin_note(table: ComparedTable) -> str:
    """What the verdicts mean."""
    resamples = read_ledger().resampling.resamples
    margin = table.claims[0][0].margin
    return (
        f"Differences in percentage points, with 95 % intervals from {resamples} paired resamples of the images. "
        f"A pair holds or is contradicted where the whole interval says so by more than {margin:g} points."
    )


def to_markdown(table: ComparedTable) -> str:
    """The table, the note and the claims as Markdown."""
    frame = with_intervals(table)
    parts = [
        table.caption,
        frame.to_markdown(disable_numparse=True, colalign=("left", *["right"] * frame.shape[1])),
        table.note,
        f"The paper's order: {table.order.text}. {margin_note(table)}",
        claims_frame(table).to_markdown(disable_numparse=True),
        "\n".join(f"- {line}" for line in summaries(table)),
        f"Made by `{table.run.command}`.",
    ]
    return "\n\n".join(parts) + "\n"


def to_latex(table: ComparedTable) -> str:
    """Measured columns, then the published ones apart from them; below, controls and the claims as marks."""
    controls = [method for method in table.methods if is_control(method)]
    methods = [method for method in table.methods if method not in controls]
    measured = with_intervals(table)
    spoken = pd.Index([_spoken(metric) for metric in METRICS])
    published = [name.endswith("†") for name in measured.columns]
    own = [i for i, of_paper in enumerate(published) if not of_paper][: len(methods)]  # controls stand last
    theirs = [i for i, of_paper in enumerate(published) if of_paper]
    frame = measured.iloc[:, own + theirs].set_axis(spoken)
    frame.columns = pd.Index([str(name).removesuffix(" †") for name in frame.columns])
    groups = [(f"Measured on {table.data}", len(own)), ("Published by the paper†", len(theirs))]
    bold = {(METRICS.index(metric), methods.index(method)) for metric, method in table.best.items()}
    claims = claims_frame(table, marks=True).set_axis(spoken, axis="columns")
    below = []
    if controls:
        beside = measured.iloc[:, len(measured.columns) - len(controls) :].T.set_axis(spoken, axis="columns")
        below += ["\\par\\medskip", fitted(tabular(beside))]
    signs = ", ".join(f"{MARKS[v]} {v}" for v in (HOLDS, CONTRADICTED, UNDECIDED, NOT_MEASURED))
    words = escape(f"The paper's order: {table.order.text}. {signs}. {margin_note(table)}")
    below += [
        "\\par\\medskip",
        f"{{\\footnotesize {words}\\par}}",
        "\\smallskip",
        fitted(tabular(claims)),
    ]
    return latex_table(
        frame,
        f"{table.caption.split(': ', 1)[1]} {table.note} {NOTE}",
        table.published.experiment,
        groups=groups,
        bold=bold,
        below="\n".join(below),
    )


def _spoken(metric: str) -> str:
    """A metric as print has it: "AP, medium"."""
    return metric.replace("_", ", ")


def write_table(table: ComparedTable, folder: Path) -> list[Path]:
    """Write `table<n>.csv`, `.md` and `.tex`, and the claims as `table<n>_claims.csv`."""
    stem = f"table{table.published.number}"
    claims = pd.DataFrame(
        [
            {
                "claim": claim.pair,
                "metric": claim.arguments["metric"],
                "difference": _rounded(found.estimate),
                "ci_low": _rounded(found.low),
                "ci_high": _rounded(found.high),
                "p_holm": p_text(found.p_holm),
                "verdict": found.verdict,
            }
            for claim, found in table.claims
        ]
    )
    return [
        atomic_write(folder / f"{stem}.csv", csv_frame(table).to_csv(lineterminator="\n")),
        atomic_write(folder / f"{stem}.md", to_markdown(table)),
        atomic_write(folder / f"{stem}.tex", to_latex(table)),
        atomic_write(folder / f"{stem}_claims.csv", claims.to_csv(index=False, lineterminator="\n")),
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
