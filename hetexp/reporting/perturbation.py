"""The perturbation test as a table: AUC of every method and panel with its interval, against the random control."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.latex import as_wide_as_the_line, environment, escape, escaped
from hetexp.reporting.names import PANEL_NAMES, in_order, method_name
from hetexp.reporting.runs import Run

LARGER_IS_BETTER = {"image_negative": True, "image_positive": False, "text_negative": True, "text_positive": False}


def auc_rows(run: Run) -> pd.DataFrame:
    """One row per method and panel: value, ci_low, ci_high, n.

    Raises:
        DataError: if a panel is absent.
    """
    frame = run.frame[run.frame["metric"] == "AUC"]
    absent = [p for p in PANEL_NAMES if p not in set(frame["panel"])]
    if absent:
        raise DataError(
            f"{run.folder / 'results.csv'} has no AUC for {', '.join(absent)}: make a complete run with "
            f"`{experiment_command('figure6')}`"
        )
    return frame


def unperturbed(run: Run) -> str:
    """The model's accuracy on whole inputs, with its interval; the same for every method."""
    rows = run.frame[(run.frame["metric"] == "accuracy") & run.frame["method"].isna()]
    if rows.empty:
        return "not recorded"
    row = rows.iloc[0]
    return f"{_with_interval(row)} ({int(row['n'])} questions)"


def _with_interval(row: pd.Series) -> str:
    return with_interval(row["value"], row["ci_low"], row["ci_high"]) or "n/a"


def against_random(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(method, panel) -> "beats random", "does not beat random" or "within random's interval".

    A method beats the control when its AUC is on the better side and the two bootstrap intervals are apart.
    """
    table = {(str(r["method"]), str(r["panel"])): r for _, r in frame.iterrows()}
    out = {}
    for (method, panel), row in table.items():
        control = table.get(("random", panel))
        if control is None or method == "random" or pd.isna(row["value"]) or pd.isna(control["value"]):
            continue
        sign = 1 if LARGER_IS_BETTER[panel] else -1
        if sign * (row["value"] - control["value"]) <= 0:
            verdict = "does not beat random"
        elif pd.notna(row["ci_low"]) and row["ci_low"] <= control["ci_high"] and control["ci_low"] <= row["ci_high"]:
            verdict = "not clearly apart from random"
        else:
            verdict = "beats random"
        out[method, panel] = verdict
    return out


def auc_table(run: Run) -> pd.DataFrame:
    """Methods as rows, panels as columns; "×" marks a method that does not beat random, "~" one not clearly apart."""
    frame = auc_rows(run)
    verdicts = against_random(frame)
    marks = {"does not beat random": " ×", "not clearly apart from random": " ~"}
    cells: dict[str, dict[str, str]] = {}
    for _, row in frame.iterrows():
        mark = marks.get(verdicts.get((row["method"], row["panel"]), ""), "")
        cells.setdefault(row["method"], {})[row["panel"]] = _with_interval(row) + mark
    order = in_order(set(cells))
    arrows = {p: "↑" if LARGER_IS_BETTER[p] else "↓" for p in PANEL_NAMES}
    columns = {f"{name} {arrows[p]}": [cells[m].get(p, "n/a") for m in order] for p, name in PANEL_NAMES.items()}
    return pd.DataFrame(columns, index=pd.Index([method_name(m) for m in order], name="method"))


def control_sentences(run: Run) -> list[str]:
    """Which methods do not beat the random control, panel by panel."""
    frame = auc_rows(run)
    if "random" not in set(frame["method"]):
        return ["The random control was not part of this run: add it with `methods=[...,random]`."]
    verdicts = against_random(frame)
    lines = []
    for panel, name in PANEL_NAMES.items():
        mine = {m: v for (m, p), v in verdicts.items() if p == panel}
        worse = [method_name(m) for m in in_order(set(mine)) if mine[m] == "does not beat random"]
        close = [method_name(m) for m in in_order(set(mine)) if mine[m] == "not clearly apart from random"]
        if not worse and not close:
            lines.append(f"{name}: every method beats the random control.")
            continue
        parts = (
            [f"{', '.join(worse)} {'does' if len(worse) == 1 else 'do'} not beat the random control"] if worse else []
        )
        parts += [f"{', '.join(close)} {'is' if len(close) == 1 else 'are'} not clearly apart from it"] if close else []
        lines.append(f"{name}: {'; '.join(parts)}.")
    return lines


def caption(run: Run) -> str:
    """What was measured on what."""
    first = run.frame.iloc[0]
    return (
        f"Perturbation test (Figure 6): area under the accuracy curve in percent, with 95 % bootstrap intervals over "
        f"images, on {first['data']} with checkpoint {first['checkpoint']}. Accuracy on whole inputs: "
        f"{unperturbed(run)}. ↑ larger is better, ↓ smaller is better; × does not beat the random control, "
        "~ intervals overlap with it."
    )


def to_markdown(run: Run) -> str:
    """The table and its sentences as Markdown."""
    parts = [
        caption(run),
        auc_table(run).to_markdown(disable_numparse=True),
        "\n".join(f"- {line}" for line in control_sentences(run)),
        f"Made by `{run.command}`.",
    ]
    return "\n\n".join(parts) + "\n"


def to_latex(run: Run) -> str:
    """The table with its sentences in the caption."""
    table = escaped(auc_table(run))
    text = escape(" ".join([caption(run), *control_sentences(run)]))
    return environment(text, "figure6", as_wide_as_the_line(table, column_format="lrrrr"))


def write_table(run: Run, folder: Path) -> list[Path]:
    """Write `figure6.csv`, `.md` and `.tex`."""
    return [
        atomic_write(folder / "figure6.csv", auc_table(run).to_csv(lineterminator="\n")),
        atomic_write(folder / "figure6.md", to_markdown(run)),
        atomic_write(folder / "figure6.tex", to_latex(run)),
    ]
