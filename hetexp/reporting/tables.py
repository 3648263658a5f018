"""Tables 1 and 2 beside the paper's own, with its claims and whether they hold on the data measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetexp.errors import ConfigError, DataError
from hetexp.files import atomic_write
from hetexp.reporting.claims import FAILS, Claim, counts, measured_order, order_text, pair_claims
from hetexp.reporting.commands import EXPERIMENTS
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
    claims: list[Claim]
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
            f"make a complete run with `{EXPERIMENTS[published.experiment]}`"
        )
    measured: dict[tuple[str, str], float | None] = {}
    for row in frame.itertuples():
        measured[str(row.metric), str(row.method)] = None if pd.isna(row.value) else float(row.value)
    return ComparedTable(
        published,
        [*PAPER_METHODS, *in_order(set(frame["method"]) - set(PAPER_METHODS))],
        measured,
        pair_claims(published, measured),
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
    names: list[str] = []
    columns: list[list[str]] = []
    for method in table.methods:
        names.append(method_name(method))
        columns.append([one_decimal(table.measured.get((m, method))) for m in METRICS])
        if method in PAPER_METHODS:
            names.append(f"{method_name(method)} †")
            columns.append([one_decimal(table.published.value(m, method)) for m in METRICS])
    rows = list(zip(*columns, strict=True))  # not a dictionary by name: two methods may carry the same label
    return pd.DataFrame(rows, columns=names, index=pd.Index(METRICS, name="metric"))


def claims_frame(table: ComparedTable) -> pd.DataFrame:
    """Neighbours of the paper's order as rows, metrics as columns: the verdict and the measured difference."""
    neighbours = [c for c in table.claims if c.neighbours]
    rows: dict[str, dict[str, str]] = {}
    for claim in neighbours:
        difference = "" if claim.difference is None else f" ({claim.difference:+.2f})".replace("-", "−")
        rows.setdefault(claim.text, {})[claim.metric] = f"{claim.verdict}{difference}"
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(METRICS)).rename_axis("claim of the paper")


def summaries(table: ComparedTable) -> Iterator[str]:
    """One sentence per metric: how many of all pairs hold, which do not, and the order found."""
    for metric in METRICS:
        holds, tested, total = counts(table.claims, metric)
        if not tested:
            yield f"{metric}: cannot be tested, this data has no such objects."
            continue
        text = f"{metric}: {holds} of {tested} pairs hold"
        failed = [c.text for c in table.claims if c.metric == metric and c.verdict == FAILS]
        if failed:
            text += f"; on this data these do not: {', '.join(failed)}"
        if tested < total:
            text += f"; {total - tested} cannot be tested"
        order = measured_order(table.published, table.measured, metric)
        yield text + (f". Found here: {order}." if order else ".")


def to_markdown(table: ComparedTable) -> str:
    """The table, the note and the claims as Markdown."""
    frame = wide(table)
    parts = [
        table.caption,
        frame.to_markdown(disable_numparse=True, colalign=("left", *["right"] * frame.shape[1])),
        table.note,
        f"The paper's order: {order_text(table.published)}. Differences in percentage points.",
        claims_frame(table).to_markdown(disable_numparse=True),
        "\n".join(f"- {line}" for line in summaries(table)),
        f"Made by `{table.run.command}`.",
    ]
    return "\n\n".join(parts) + "\n"


def to_latex(table: ComparedTable) -> str:
    """The table with the claims below it."""
    frame = wide(table)
    heads = {m: ("here", escape("paper†")) if m in PAPER_METHODS else ("here",) for m in table.methods}
    frame.columns = pd.MultiIndex.from_tuples([(escape(method_name(m)), kind) for m in heads for kind in heads[m]])
    frame.index = pd.Index([_metric_tex(m) for m in METRICS])
    claims = claims_frame(table)
    claims = claims.map(lambda cell: escape(cell.replace(" on this data", "")))
    claims.index = pd.Index([escape(text) for text in claims.index])
    claims.columns = pd.Index([_metric_tex(m) for m in METRICS])
    return environment(
        f"{escape(table.caption.split(': ', 1)[1])} {escape(table.note)}",
        table.published.experiment,
        as_wide_as_the_line(frame, multicolumn_format="c", column_format="l" + "r" * frame.shape[1]),
        "\\par\\medskip",
        f"{{\\footnotesize The paper's order: {escape(order_text(table.published))}.\\par}}",
        "\\smallskip",
        as_wide_as_the_line(claims, column_format="l" * (1 + len(METRICS))),
    )


def _metric_tex(metric: str) -> str:
    base, _, size = metric.partition("_")
    return f"{base}$_\\mathrm{{{size}}}$" if size else base


def write_table(table: ComparedTable, folder: Path) -> list[Path]:
    """Write `table<n>.csv`, `.md` and `.tex`, and the claims as `table<n>_claims.csv`."""
    stem = f"table{table.published.number}"
    claims = pd.DataFrame(
        [
            {
                "claim": c.text,
                "metric": c.metric,
                "difference": None if c.difference is None else round(c.difference, 4),
                "verdict": c.verdict,
            }
            for c in table.claims
        ]
    )
    return [
        atomic_write(folder / f"{stem}.csv", wide(table).to_csv(lineterminator="\n")),
        atomic_write(folder / f"{stem}.md", to_markdown(table)),
        atomic_write(folder / f"{stem}.tex", to_latex(table)),
        atomic_write(folder / f"{stem}_claims.csv", claims.to_csv(index=False, lineterminator="\n")),
    ]
