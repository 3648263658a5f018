"""Figure 6 for several models: a row of panels per model, one legend."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetexp.files import atomic_write
from hetexp.reporting.figures.curves import curve_frame, draw_curves, magnify
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import PANEL_NAMES, model_name
from hetexp.reporting.perturbation import LARGER_IS_BETTER
from hetexp.reporting.perturbation_models import EXPERIMENT, alike, by_model
from hetexp.reporting.runs import Run


def draw_models(models: dict[str, Run]) -> Figure:
    """Models as rows and Figure 6's panels as columns, all with the same axes; insets as there."""
    curves = {model: curve_frame(run) for model, run in models.items()}
    with styled():
        figure, axes = plt.subplots(
            len(models),
            len(PANEL_NAMES),
            figsize=(PAGE, 0.7 + 1.9 * len(models)),
            layout="constrained",
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        panels: dict[tuple[str, str], Axes] = {}
        styles = method_styles(method for frame in curves.values() for method in frame["method"])
        for row, (model, frame) in zip(axes, curves.items(), strict=True):
            for ax, panel in zip(row, PANEL_NAMES, strict=True):
                draw_curves(ax, frame[frame["panel"] == panel], styles)
                panels[model, panel] = ax
            row[0].set_ylabel(f"{model_name(model)}\naccuracy (%)")
            hidden = "\n".join("\n".join(["one curve:", *names]) for names in alike(models[model]))
            row[-1].text(0.98, 0.98, hidden, transform=row[-1].transAxes, fontsize=6, ha="right", va="top")
        for (model, panel), ax in panels.items():  # now that all curves have set the axes' common range
            magnify(ax, curves[model][curves[model]["panel"] == panel], styles, left=0.14)
        for ax, (panel, name) in zip(axes[0], PANEL_NAMES.items(), strict=True):
            better = "higher" if LARGER_IS_BETTER[panel] else "lower"
            ax.set_title(f"{name}\n{better} is better", loc="left")
        for ax in axes[-1]:
            ax.set_xlabel("removed share of tokens")
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=min(5, len(lines)), frameon=False)
    return figure


def write_models(run: Run, folder: Path) -> list[Path]:
    """Write `figure6_models.png`, `.pdf` and `.csv`."""
    models = by_model(run)
    frame = pd.concat({model: curve_frame(own) for model, own in models.items()}, names=["model"]).droplevel(1)
    paths = save(draw_models(models), folder / EXPERIMENT)
    return [*paths, atomic_write(folder / f"{EXPERIMENT}.csv", frame.to_csv(lineterminator="\n"))]
