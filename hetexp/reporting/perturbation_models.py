"""Figure 6 for several models that answer questions: the areas of each, and how alike the orders of methods are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting import latex
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE
from hetexp.reporting.names import PANEL_NAMES, in_order, method_name, model_name
from hetexp.reporting.perturbation import (
    auc_rows,
    auc_table,
    columns_of,
    joined,
    normalised_note,
    normalised_table,
    unperturbed,
)
from hetexp.reporting.runs import Run

EXPERIMENT = "figure6_models"


def by_model(run: Run) -> dict[str, Run]:
    """Each model's part of a run over several, in the run's order.

    Raises:
        DataError: if the run has one model alone.
    """
    models = list(dict.fromkeys(run.frame["model"].dropna()))
    if len(models) < 2:
        raise DataError(
            f"{run.folder / 'results.csv'} holds {', '.join(models) or 'no model'}: a comparison needs two models; "
            f"make it with `{experiment_command(EXPERIMENT)}`"
        )
    return {str(m): Run(run.folder, run.frame[run.frame["model"] == m].reset_index(drop=True)) for m in models}


def alike(run: Run) -> list[list[str]]:
    """Printed names of methods whose accuracies are the same everywhere, so that one's curves hide the others'."""
    frame = run.frame[run.frame["panel"].isin(list(PANEL_NAMES)) & run.frame["method"].notna()]
    table = frame.pivot_table(index="method", columns=["panel", "metric"], values="value", aggfunc="last")
    groups: dict[tuple[float, ...], list[str]] = {}
    for method in in_order(set(table.index)):
        groups.setdefault(tuple(table.loc[method]), []).append(method_name(method))
    return [names for names in groups.values() if len(names) > 1]


def orders(models: dict[str, Run]) -> pd.DataFrame:
    """Kendall's rank correlation (tau-b) of the methods' areas between every model and the first, panel by panel.

    Computed over the methods of both, the random control included; 1 is the same order, -1 the reverse.
    """
    areas = {
        model: auc_rows(run).pivot_table(index="method", columns="panel", values="value", aggfunc="last")
        for model, run in models.items()
    }
    first, *others = areas
    rows = {
        model_name(other): {
            name: areas[first][panel].corr(areas[other][panel], method="kendall") for panel, name in PANEL_NAMES.items()
        }
        for other in others
    }
    return pd.DataFrame(rows).T


def table_frame(models: dict[str, Run]) -> pd.DataFrame:
    """Model and method as rows, panels as columns; marks as in Figure 6's own table."""
    parts = {model_name(model): joined(run) for model, run in models.items()}
    return pd.concat(parts, names=["model", "method"]).fillna("n/a")


def caption(models: dict[str, Run]) -> str:
    """What was measured on what."""
    data = next(iter(models.values())).frame["data"].iloc[0]
    own = "; ".join(
        f"{model_name(model)} ({run.frame['checkpoint'].iloc[0]}): {unperturbed(run)}" for model, run in models.items()
    )
    return (
        f"Perturbation test (Figure 6) for several models: area under the accuracy curve in percent, with 95 % "
        f"bootstrap intervals over images, on {data}. Accuracy on whole inputs: {own}. ↑ larger is better, ↓ smaller "
        "is better; × does not beat the random control, ~ intervals overlap with it."
    )


def to_markdown(run: Run) -> str:
    """A table per model, and how alike the orders are."""
    models = by_model(run)
    first = model_name(next(iter(models)))
    parts = [caption(models)]
    for model, own in models.items():
        parts += [f"{model_name(model)}:", auc_table(own).to_markdown(disable_numparse=True)]
        parts += [f"The same everywhere: {', '.join(names)}." for names in alike(own)]
        if len(normalised_table(own)):
            parts += [normalised_note(own), normalised_table(own).to_markdown(disable_numparse=True)]
    correlations = orders(models).map(lambda tau: f"{tau:.2f}")
    parts += [
        f"Kendall's rank correlation of the methods' areas with those of {first}, panel by panel:",
        correlations.to_markdown(disable_numparse=True),
        f"Made by `{experiment_command(EXPERIMENT)}`.",
    ]
    return "\n\n".join(parts) + "\n"


def to_latex(models: dict[str, Run]) -> str:
    """One table, a section per model."""
    frames: list[pd.DataFrame] = []
    groups: list[tuple[str, int]] = []
    bold: set[tuple[int, int]] = set()
    sections: dict[int, str] = {}
    row = 0
    for model, run in models.items():
        frame, groups, places = columns_of(run)
        sections[row] = model_name(model)
        bold |= {(row + place, column) for place, column in places}
        frames.append(frame)
        row += len(frame)
    text = " ".join([caption(models), *dict.fromkeys(normalised_note(run) for run in models.values()), NOTE])
    return latex.table(pd.concat(frames), text, EXPERIMENT, groups=groups, bold=bold, sections=sections)


def write_table(run: Run, to: Path) -> tuple[list[Path], str]:
    """Write `figure6_models.csv`, `.md` and `.tex`; returns them and the Markdown."""
    models, text = by_model(run), to_markdown(run)
    paths = [
        atomic_write(to / f"{EXPERIMENT}.csv", table_frame(models).to_csv(lineterminator="\n")),
        atomic_write(to / f"{EXPERIMENT}.md", text),
        atomic_write(to / f"{EXPERIMENT}.tex", to_latex(models)),
    ]
    return paths, text
