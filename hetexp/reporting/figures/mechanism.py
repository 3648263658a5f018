"""What the noise link does: AP over the threshold with the link, with noise of its size, and with other weights."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.figures.curves import sweep_frame
from hetexp.reporting.figures.style import PAGE, method_styles, save, styled
from hetexp.reporting.names import method_name
from hetexp.reporting.runs import Run

PANELS = {
    "Is it noise?": ("ours_pos", "ours_noised", "ours_pos(noise_link=shuffled)", "gae", "gae(zero_rows=identity)"),
    "Is it the weight of the encoder?": (
        "ours_noised",
        "ours_pos(encoder_weight=0)",
        "ours_pos",
        "ours_pos(encoder_weight=10)",
        "ours_pos(encoder_weight=40)",
        "ours_pos(y_unit=10)",
    ),
}
SHORT = {
    "ours_pos(noise_link=shuffled)": "pos + the link's own values, shuffled",
    "gae(zero_rows=identity)": "GAE, zero rows kept",
    "ours_pos(encoder_weight=0)": "pos, encoder × 0",
    "ours_pos(encoder_weight=10)": "pos, encoder × 10",
    "ours_pos(encoder_weight=40)": "pos, encoder × 40",
    "ours_pos(y_unit=10)": "pos, y × 10",
}


def draw_mechanism(run: Run) -> Figure:
    """Two panels with the same axes; a method has the same look in both.

    Raises:
        DataError: if the run lacks one of the methods.
    """
    table = sweep_frame(run)
    missing = [m for names in PANELS.values() for m in names if m not in table]
    if missing:
        raise DataError(f"{run.folder} has no {', '.join(missing)}: make it again with `{run.command}`")
    styles = method_styles({m for names in PANELS.values() for m in names})
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(PAGE, 3.0), layout="constrained", sharey=True)
        for ax, (title, methods) in zip(axes, PANELS.items(), strict=True):
            for method in methods:
                ax.plot(table.index, table[method], label=SHORT.get(method, method_name(method)), **styles[method])
            ax.set_title(title, loc="left")
            ax.set_xlabel("threshold, in multiples of Otsu's")
            ax.grid(alpha=0.25, linewidth=0.4)
            ax.set_ylim(bottom=0)
            ax.legend(frameon=False, loc="lower right")
        axes[0].set_ylabel("AP (%)")
    return figure


def write_mechanism(run: Run, folder: Path) -> list[Path]:
    """Write `mechanism.png` and `.pdf`."""
    return save(draw_mechanism(run), folder / "mechanism")
