"""Which differences survive which choice, as a matrix: a row for every choice, a column for every difference."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hetexp.reporting.evidence.choices import Choices, read_choices
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, MARKS, NOT_MEASURED, UNDECIDED
from hetexp.reporting.figures.style import PAGE, save, styled
from hetexp.reporting.runs import Run

# Told apart with any colour vision, and by the marks without colour.
COLOURS = {HOLDS: "#9ecae1", CONTRADICTED: "#fdae6b", UNDECIDED: "#f0f0f0", NOT_MEASURED: "#ffffff"}


def draw_choices(found: Choices) -> Figure:
    """Colour and mark say what is decided, the number is the difference in points; the first row changes nothing."""
    choices, claims = list(found.decisions), list(found.claims)
    codes = list(COLOURS)
    grid = np.array([[codes.index(found.decisions[c][k].verdict) for k in claims] for c in choices])
    with styled():
        figure, ax = plt.subplots(figsize=(PAGE, 0.9 + 0.19 * len(choices)), layout="constrained")
        ax.imshow(grid, cmap=ListedColormap(list(COLOURS.values())), vmin=-0.5, vmax=len(codes) - 0.5, aspect="auto")
        for i, choice in enumerate(choices):
            for j, claim in enumerate(claims):
                d = found.decisions[choice][claim]
                text = MARKS[d.verdict] if d.estimate is None else f"{MARKS[d.verdict]} {d.estimate:+.1f}"
                ax.text(j, i, text.replace("-", "−"), ha="center", va="center", fontsize=6)
        ax.set_yticks(range(len(choices)), choices)
        headings = [_heading(text) for text in found.claims.values()]
        ax.set_xticks(range(len(claims)), headings, fontsize=5.5)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.axhline(0.5, color="#444444", lw=0.8)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_xticks(np.arange(len(claims) + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(len(choices) + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1)
        ax.tick_params(which="minor", length=0)
        handles = [Patch(color=COLOURS[v], label=f"{MARKS[v]} {v}") for v in (HOLDS, CONTRADICTED, UNDECIDED)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _heading(claim: str) -> str:
    """A claim in lines that are no wider than a column."""
    for relation in (">", "≥", "≤"):
        claim = claim.replace(f" {relation} ", f"\n{relation} ")
    lines = claim.replace(", ", "\n").split("\n")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, 14))


def write_choices(run: Run, folder: Path) -> list[Path]:
    """Write `<experiment>.png` and `.pdf`."""
    found = read_choices(run)
    return save(draw_choices(found), folder / found.experiment)
