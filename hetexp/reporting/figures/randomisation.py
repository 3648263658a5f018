"""Cascading randomisation: how much of each method's maps is left as more stages have weights at random."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.files import atomic_write
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import in_order, method_name
from hetexp.reporting.runs import Run

PREFIX = "randomisation/"


def draw_randomisation(run: Run) -> Figure:
    """Rank correlation with the trained model's maps, stage by stage from the output; 0 is what a fresh map has.

    Raises:
        DataError: if the run has none.
    """
    frame = run.frame[run.frame["panel"].fillna("").str.startswith(PREFIX)]
    if frame.empty:
        raise DataError(f"{run.folder / 'results.csv'} holds no randomisation: make it with metrics=[randomisation]")
    stages = sorted(frame["panel"].unique())
    with styled():
        figure, ax = plt.subplots(figsize=(PAGE, 3.4), layout="constrained")
        styles = method_styles(frame["method"].unique())
        places = range(len(stages) + 1)
        for method in in_order(frame["method"].unique()):
            mine = frame[frame["method"] == method].set_index("panel").loc[stages]
            values = [1.0, *(mine["value"].astype(float) / 100)]
            ax.plot(places, values, label=method_name(method), zorder=3, **styles[method])
            if mine["ci_low"].notna().all():
                low, high = ([1.0, *(mine[end].astype(float) / 100)] for end in ("ci_low", "ci_high"))
                ax.fill_between(places, low, high, color=styles[method]["color"], alpha=0.1, lw=0, zorder=1)
        ax.axhline(0, color="#444444", lw=0.6)
        names = [stage.partition(" ")[2].replace("model.", "") for stage in stages]
        ax.set_xticks(places, ["trained", *names], rotation=45, ha="right", fontsize=5.5)
        ax.set_ylabel("rank correlation with the trained model's map")
        ax.set_xlabel("random from the output up to this stage")
        ax.grid(alpha=0.25, linewidth=0.4)
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def write_randomisation(run: Run, folder: Path) -> list[Path]:
    """Write `randomisation.png`, `.pdf` and `.csv`."""
    paths = save(draw_randomisation(run), folder / "randomisation")
    frame = run.frame[run.frame["panel"].fillna("").str.startswith(PREFIX)]
    columns = ["panel", "method", "metric", "value", "ci_low", "ci_high", "n"]
    return [
        *paths,
        atomic_write(folder / "randomisation.csv", frame[columns].round(4).to_csv(index=False, lineterminator="\n")),
    ]
