"""Tables 1 and 2 beside the paper's own, with intervals, and its orders decided pair by pair on the data measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetexp.errors import ConfigError, DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.decide import decide_claims, measurements_of, p_text, with_interval
from hetexp.reporting.evidence.ledger import Claim, Order, read_ledger
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, NOT_MEASURED, UNDECIDED, Decision
from hetexp.reporting.latex import as_wide_as_the_line, environment, escape
from hetexp.reporting.names import PAPER_METHODS, in_order, method_name
from hetexp.reporting.published import METRICS, PAPER_DATA, PAPER_DATA_NAME, SOURCE, TABLES, PublishedTable
from hetexp.reporting.runs import Run


@dataclass(frozen=True)
class ComparedTable:
    """A measured table, the published one and the claims."""

    published: PublishedTable
    methods: list[str]  # the paper's five, then whatever else was measured
    measured: dict[tuple[str, str], float | None]  # (metric, method) -> percent
    intervals: dict[tuple[str, str], tuple[float, float]]  # the same -> ends of its interval, where it has one
    order: Order
    claims: list[tuple[Claim, Decision]]  # every pair of the order, for every metric
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
        """What the marked columns are."""
        if self.same_data:
            return f"† published by the paper ({SOURCE}) on {PAPER_DATA}."
        return (
            f"† published by the paper ({SOURCE}) on another data set ({PAPER_DATA}): only the order of methods can be "
            "compared, not the numbers."
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
        DataError: if the run lacks a method or the table's threshold.
    """
    if number not in TABLES:
        raise ConfigError(f"table {number} does not exist: choose among {', '.join(map(str, TABLES))}")
    published = TABLES[number]
    frame = run.frame[(run.frame["panel"] == "segm") & ((run.frame["threshold"] - published.scale).abs() < 1e-9)]
    absent = [m for m in PAPER_METHODS if m not in set(frame["method"])]
    if absent:
        raise DataError(
            f"{run.folder / 'results.csv'} has no {', '.join(absent)} at threshold {published.scale}: "
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
    decisions = decide_claims(pairs, {published.experiment: measurements_of(run, ledger)})
    return ComparedTable(
        published,
        [*PAPER_METHODS, *in_order(set(frame["method"]) - set(PAPER_METHODS))],
        measured,
        intervals,
        ledger.orders[published.experiment],
        [(claim, decisions[claim.id]) for claim in pairs],
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


def claims_frame(table: ComparedTable) -> pd.DataFrame:
    """Neighbours of the paper's order as rows, metrics as columns: the verdict and the difference with its interval."""
    rows: dict[str, dict[str, str]] = {}
    for claim, found in table.claims:
        if claim.neighbours:
            difference = with_interval(found.estimate, found.low, found.high, sign=True)
            cell = f"{found.verdict} ({difference})" if difference else found.verdict
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
    """The table with the claims below it."""
    frame = with_intervals(table).map(_small_interval)
    heads = {m: ("here", escape("paper†")) if m in PAPER_METHODS else ("here",) for m in table.methods}
    frame.columns = pd.MultiIndex.from_tuples([(escape(method_name(m)), kind) for m in heads for kind in heads[m]])
    frame.index = pd.Index([_metric_tex(m) for m in METRICS])
    claims = claims_frame(table).map(escape)
    claims.index = pd.Index([escape(text) for text in claims.index])
    claims.columns = pd.Index([_metric_tex(m) for m in METRICS])
    return environment(
        f"{escape(table.caption.split(': ', 1)[1])} {escape(table.note)}",
        table.published.experiment,
        as_wide_as_the_line(frame, multicolumn_format="c", column_format="l" + "r" * frame.shape[1]),
        "\\par\\medskip",
        f"{{\\footnotesize The paper's order: {escape(table.order.text)}. {escape(margin_note(table))}\\par}}",
        "\\smallskip",
        as_wide_as_the_line(claims, column_format="l" * (1 + len(METRICS))),
    )


def _small_interval(cell: str) -> str:
    value, bracket, ends = cell.partition(" [")
    return f"{value} {{\\scriptsize [{ends}}}" if bracket else cell


def _metric_tex(metric: str) -> str:
    base, _, size = metric.partition("_")
    return f"{base}$_\\mathrm{{{size}}}$" if size else base


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
