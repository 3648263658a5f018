"""AP against the Otsu scale on several detectors, one panel each."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.reporting.detectors import SCALES, Comparison, compare_detectors
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import method_name, model_name
from hetexp.reporting.runs import Run


def draw_detectors(found: Comparison) -> Figure:
    """One panel per detector with the same axes; the scales of Tables 1 and 2 are marked."""
    with styled():
        figure, axes = plt.subplots(
            1, len(found.by_scale), figsize=(PAGE, 2.7), layout="constrained", sharey=True, squeeze=False
        )
        methods = dict.fromkeys(m for table in found.by_scale.values() for m in table.columns)
        styles = method_styles(methods)
        for ax, (detector, table) in zip(axes[0], found.by_scale.items(), strict=True):
            for method in table.columns:
                ends = [found.intervals.get((detector, method, float(s))) for s in table.index]
                ax.plot(table.index, table[method], label=method_name(method), zorder=3, **styles[method])
                if all(ends):
                    low, high = zip(*(e for e in ends if e), strict=True)
                    ax.fill_between(table.index, low, high, color=styles[method]["color"], alpha=0.1, lw=0, zorder=1)
            for scale in SCALES:
                ax.axvline(scale, color="#888888", lw=0.6, ls=":", zorder=0)
            ax.set_title(model_name(detector), loc="left")
            ax.set_xlabel("threshold, in multiples of Otsu's")
            ax.grid(alpha=0.25, linewidth=0.4)
            ax.set_ylim(bottom=0)
        axes[0, 0].set_ylabel("AP (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def write_detectors(run: Run, folder: Path) -> list[Path]:
    """Write `detectors.png` and `.pdf`."""
    return save(draw_detectors(compare_detectors(run)), folder / "detectors")
