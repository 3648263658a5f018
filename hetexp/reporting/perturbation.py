"""The perturbation test as a table: AUC of every method and panel with its interval, between random and an oracle."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting import latex
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE, decided_best, items_of
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.evidence.statistics import in_percent_of
from hetexp.reporting.names import PANEL_NAMES, first_control, in_order, method_name
from hetexp.reporting.runs import Run

LARGER_IS_BETTER = {"image_negative": True, "image_positive": False, "text_negative": True, "text_positive": False}
BEATS_RANDOM = "beats random"
LOW, HIGH = "random", "oracle"  # the controls that areas are set between
ORACLE = (
    "The oracle orders regions by the share of their box that the objects cover which decide the answer, and words by "
    "whether they decide it; it is no upper bound, since a model may use more than these."
)


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
            verdict = BEATS_RANDOM
        out[method, panel] = verdict
    return out


def normalised(run: Run) -> dict[tuple[str, str], tuple[float, float | None, float | None]]:
    """(method, panel) -> (AUC − random) / (oracle − random) in percent, and the ends of its interval.

    Random itself is 0 and the oracle 100, whichever side is better. A panel without both has none, nor one whose
    oracle is not decidedly better than random; nor has a run that left no items.

    Raises:
        DataError: if a panel is absent.
    """
    frame, items = auc_rows(run), items_of(run)
    found: dict[tuple[str, str], tuple[float, float | None, float | None]] = {}
    for panel in PANEL_NAMES:
        mine = frame[(frame["panel"] == panel) & frame["value"].notna()]
        if items is None or not {LOW, HIGH} <= set(mine["method"]):
            continue
        low, high = (items.estimate(method, panel, "AUC") for method in (LOW, HIGH))
        span = high - low
        ahead = span if LARGER_IS_BETTER[panel] else -span
        if not ahead.interval()[0] > 0:
            continue
        found |= {(LOW, panel): (0.0, None, None), (HIGH, panel): (100.0, None, None)}
        for method in set(map(str, mine["method"])) - {LOW, HIGH}:
            share = in_percent_of(items.estimate(method, panel, "AUC") - low, span)
            found[method, panel] = share.value, *share.interval()
    return found


def best_methods(run: Run) -> dict[str, str]:
    """Panel -> the method whose AUC is decidedly the best; without items none is."""
    items = items_of(run)
    if items is None:
        return {}
    frame = auc_rows(run)
    found: dict[str, str] = {}
    for panel, larger in LARGER_IS_BETTER.items():
        values = frame[frame["panel"] == panel].set_index("method")["value"].to_dict()
        best = decided_best(values, partial(items.estimate, panel=panel, metric="AUC"), smaller=not larger)
        found |= {} if best is None else {panel: best}
    return found


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


def normalised_table(run: Run) -> pd.DataFrame:
    """Methods as rows, panels as columns: percent of the way from random to the oracle; empty without these."""
    found = normalised(run)
    order = in_order(set(map(str, auc_rows(run)["method"]))) if found else []
    cells = {
        f"{name}, of the oracle's": [with_interval(*found.get((m, panel), (None,) * 3)) or "n/a" for m in order]
        for panel, name in PANEL_NAMES.items()
    }
    return pd.DataFrame(cells, index=pd.Index([method_name(m) for m in order], name="method"))


def normalised_note(run: Run) -> str:
    """What the normalised numbers are, or why there are none."""
    if normalised(run):
        return (
            "Of the oracle's: (AUC − random) / (oracle − random) in percent, n/a where the oracle is not decidedly "
            f"better than random. {ORACLE}"
        )
    return (
        "No AUC is set between random and an oracle, since the run lacks one of these or its single items: "
        "methods=[...,random] controls=[oracle]."
    )


def joined(run: Run) -> pd.DataFrame:
    """`auc_table`, with the columns of `normalised_table` behind where there are any."""
    shares = normalised_table(run)
    return auc_table(run) if shares.empty else pd.concat([auc_table(run), shares], axis=1)


def to_markdown(run: Run) -> str:
    """The table and its sentences as Markdown."""
    parts = [
        caption(run),
        auc_table(run).to_markdown(disable_numparse=True),
        "\n".join(f"- {line}" for line in control_sentences(run)),
        normalised_note(run),
        *([normalised_table(run).to_markdown(disable_numparse=True)] if normalised(run) else []),
        f"Made by `{run.command}`.",
    ]
    return "\n\n".join(parts) + "\n"


def columns_of(run: Run) -> tuple[pd.DataFrame, list[tuple[str, int]], set[tuple[int, int]]]:
    """For LaTeX: panel by panel the AUC and what it is of the oracle's; headings of the groups; places set in bold."""
    frame = joined(run)
    panels = list(PANEL_NAMES)
    pairs = frame.shape[1] > len(panels)
    places = [i + k * len(panels) for i in range(len(panels)) for k in range(2 if pairs else 1)]
    groups = [(heading, 2 if pairs else 1) for heading in frame.columns[: len(panels)]]
    names = list(frame.index)
    bold = {(names.index(method_name(m)), (1 + pairs) * panels.index(p)) for p, m in best_methods(run).items()}
    frame = frame.iloc[:, places]
    frame.columns = pd.Index(["AUC", "of the oracle's"] * len(panels) if pairs else ["AUC"] * len(panels))
    return frame, groups, bold


def to_latex(run: Run) -> str:
    """The table with its sentences in the caption."""
    frame, groups, bold = columns_of(run)
    text = " ".join([caption(run), normalised_note(run), NOTE])
    order = in_order(set(map(str, auc_rows(run)["method"])))
    return latex.table(frame, text, "figure6", groups=groups, bold=bold, rules=first_control(order))


def write_table(run: Run, folder: Path) -> list[Path]:
    """Write `figure6.csv`, `.md` and `.tex`."""
    return [
        atomic_write(folder / "figure6.csv", joined(run).to_csv(lineterminator="\n")),
        atomic_write(folder / "figure6.md", to_markdown(run)),
        atomic_write(folder / "figure6.tex", to_latex(run)),
    ]
