"""Whether the order of methods holds for other detectors: AP scale by scale, and measures against the ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from hetexp.errors import DataError
from hetexp.evaluation.bootstrap import Estimate
from hetexp.files import atomic_write
from hetexp.reporting import latex
from hetexp.reporting.commands import experiment_command
from hetexp.reporting.evidence.best import NOTE, decided_best, items_of
from hetexp.reporting.names import in_order, method_name, model_name
from hetexp.reporting.runs import Run

EXPERIMENT = "detectors"
SCALES = (1.0, 0.3)  # of Tables 1 and 2
MEASURES = {"AUPRC": "AUPRC", "pointing_game": "pointing", "energy_target": "on target"}  # of Table 3


@dataclass(frozen=True)
class Comparison:
    """AP in percent.

    Attributes:
        by_scale: detector -> scales as rows, methods as columns.
        intervals: (detector, method, scale) -> ends of its interval, where it has one.
        measures: (detector, method, metric) -> what Table 3 measures without a threshold, with its interval.
        checkpoints: detector -> its checkpoint.
        data: name of the data.
    """

    by_scale: dict[str, pd.DataFrame]
    intervals: dict[tuple[str, str, float], tuple[float, float]]
    measures: dict[tuple[str, str, str], tuple[float, float, float]]
    checkpoints: dict[str, str]
    data: str


def compare_detectors(run: Run) -> Comparison:
    """What a run over several detectors found.

    Raises:
        DataError: if it lacks AP at the scales of Tables 1 and 2, or has one detector alone.
    """
    frame = run.frame[(run.frame["panel"] == "segm") & (run.frame["metric"] == "AP") & run.frame["threshold"].notna()]
    frame = frame.assign(threshold=frame["threshold"].astype(float).round(6))
    detectors = list(dict.fromkeys(frame["model"]))
    if len(detectors) < 2 or not set(SCALES) <= set(frame["threshold"]):
        raise DataError(
            f"{run.folder / 'results.csv'} holds {', '.join(detectors) or 'no detector'} at the scales "
            f"{sorted(set(frame['threshold']))}: a comparison needs two detectors and the scales {list(SCALES)}; "
            f"make it with `{experiment_command(EXPERIMENT)}`"
        )
    by_scale, intervals = {}, {}
    for detector in detectors:
        mine = frame[frame["model"] == detector]
        table = mine.pivot_table(index="threshold", columns="method", values="value", aggfunc="last")
        by_scale[str(detector)] = table[in_order(set(table.columns))]
        for row in mine[mine["ci_low"].notna()].itertuples():
            intervals[str(detector), str(row.method), float(row.threshold)] = float(row.ci_low), float(row.ci_high)
    checkpoints = {str(d): str(frame.loc[frame["model"] == d, "checkpoint"].iloc[-1]) for d in detectors}
    measured = run.frame[(run.frame["panel"] == "ground_truth") & run.frame["metric"].isin(list(MEASURES))]
    measures = {
        (str(row.model), str(row.method), str(row.metric)): (float(row.value), float(row.ci_low), float(row.ci_high))
        for row in measured[measured["value"].notna()].itertuples()
    }
    return Comparison(by_scale, intervals, measures, checkpoints, str(frame["data"].iloc[0]))


def orders(found: Comparison) -> pd.DataFrame:
    """Kendall's rank correlation (tau-b) of the methods' AP between every detector and the first, scale by scale.

    Computed over all methods; 1 is the same order, -1 the reverse.
    """
    first, *others = found.by_scale
    rows = {}
    for other in others:
        one, two = found.by_scale[first], found.by_scale[other]
        shared = [m for m in one.columns if m in two.columns]
        rows[model_name(other)] = {
            f"{scale:g}": one.loc[scale, shared].corr(two.loc[scale, shared], method="kendall") for scale in SCALES
        }
    return pd.DataFrame(rows).T


def table_frame(found: Comparison) -> pd.DataFrame:
    """Methods as rows; per detector AP at both scales with its interval, and the best over all scales (at which)."""
    columns: dict[str, dict[str, str]] = {}
    for detector, table in found.by_scale.items():
        for scale in SCALES:
            columns[f"{model_name(detector)}, {scale:g}"] = {
                method: _cell(float(table.loc[scale, method]), found.intervals.get((detector, method, scale)))
                for method in table.columns
            }
        columns[f"{model_name(detector)}, best"] = {
            method: f"{table[method].max():.1f} ({table[method].idxmax():g})" for method in table.columns
        }
    return _printed(columns)


def measures_frame(found: Comparison) -> pd.DataFrame:
    """Methods as rows; per detector Table 3's measures with their intervals. Empty if none were computed."""
    columns: dict[str, dict[str, str]] = {}
    for detector in found.by_scale:
        for metric, heading in MEASURES.items():
            own = {m: v for (d, m, name), v in found.measures.items() if (d, name) == (detector, metric)}
            if own:
                cells = {method: _cell(value, (low, high)) for method, (value, low, high) in own.items()}
                columns[f"{model_name(detector)}, {heading}"] = cells
    return _printed(columns)


def _printed(columns: dict[str, dict[str, str]]) -> pd.DataFrame:
    """Columns of cells by method, in the order of print."""
    frame = pd.DataFrame(columns)
    frame = frame.loc[in_order(set(frame.index))].fillna("n/a")
    frame.index = pd.Index([method_name(str(m)) for m in frame.index], name="method")
    return frame


def _cell(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.1f}" if ends is None else f"{value:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"


def caption(found: Comparison) -> str:
    """What was measured on what."""
    checkpoints = ", ".join(f"{model_name(name)} ({checkpoint})" for name, checkpoint in found.checkpoints.items())
    return (
        f"Segmentation AP of every method on several detectors, percent, {found.data}. At one and at 0.3 times Otsu's "
        f"threshold, and the best of all scales with the scale in brackets. Checkpoints: {checkpoints}."
    )


def to_markdown(run: Run) -> str:
    """The table, and how alike the orders are."""
    found = compare_detectors(run)
    alike = orders(found).map(lambda tau: f"{tau:.2f}")
    first = model_name(next(iter(found.by_scale)))
    measures = measures_frame(found)
    parts = [
        caption(found),
        table_frame(found).to_markdown(disable_numparse=True),
        f"Kendall's rank correlation of the methods' AP with that of {first}, at each scale:",
        alike.to_markdown(disable_numparse=True),
    ]
    if len(measures):
        parts += ["Table 3's measures against the masks of the objects, without a threshold, percent:"]
        parts += [measures.to_markdown(disable_numparse=True)]
    return "\n\n".join([*parts, f"Made by `{experiment_command(EXPERIMENT)}`."]) + "\n"


def best_methods(run: Run, found: Comparison, detector: str) -> dict[str, str]:
    """Heading of a column, as the tables have it -> the method of a detector that is decidedly the best there."""
    items = items_of(Run(run.folder, run.frame[run.frame["model"] == detector]))
    if items is None:
        return {}
    columns: dict[str, tuple[dict[str, float | None], Callable[[str], Estimate]]] = {}
    for scale in SCALES:
        values: dict[str, float | None] = {str(m): v for m, v in found.by_scale[detector].loc[scale].items()}
        columns[f"{scale:g}"] = values, partial(items.estimate, panel="segm", metric="AP", threshold=scale)
    for metric, heading in MEASURES.items():
        known = {m: v for (d, m, name), (v, _, _) in found.measures.items() if (d, name) == (detector, metric)}
        columns[heading] = dict(known), partial(items.estimate, panel="ground_truth", metric=metric)
    decided = {heading: decided_best(values, estimate) for heading, (values, estimate) in columns.items()}
    return {f"{model_name(detector)}, {heading}": best for heading, best in decided.items() if best is not None}


def to_latex(run: Run) -> str:
    """One table, a section per detector."""
    found = compare_detectors(run)
    whole = table_frame(found).join(measures_frame(found))
    parts, sections, bold = [], {}, set()
    row = 0
    for detector, table in found.by_scale.items():
        prefix = f"{model_name(detector)}, "
        order = in_order(set(table.columns))
        columns = [name for name in whole.columns if name.startswith(prefix)]
        part = whole.loc[[method_name(m) for m in order], columns]
        for name, method in best_methods(run, found, detector).items():
            bold.add((row + order.index(method), list(part.columns).index(name)))
        sections[row] = model_name(detector)
        row += len(order)
        parts.append(part.rename(columns=lambda name, prefix=prefix: _heading(name.removeprefix(prefix))))
    frame = pd.concat(parts).fillna("n/a")
    return latex.table(frame, f"{caption(found)} {NOTE}", EXPERIMENT, sections=sections, bold=bold)


def _heading(name: str) -> str:
    """A column's heading without its detector: those of AP are a scale, or "best"."""
    if name == "best":
        return "AP, best (scale)"
    return f"AP, {name} × Otsu" if name.replace(".", "").isdigit() else name


def write_table(run: Run, to: Path) -> tuple[list[Path], str]:
    """Write `detectors.csv`, `.md` and `.tex`; returns them and the Markdown."""
    found, text = compare_detectors(run), to_markdown(run)
    frame = table_frame(found).join(measures_frame(found))
    paths = [
        atomic_write(to / "detectors.csv", frame.to_csv(lineterminator="\n")),
        atomic_write(to / "detectors.md", text),
        atomic_write(to / "detectors.tex", to_latex(run)),
    ]
    return paths, text
