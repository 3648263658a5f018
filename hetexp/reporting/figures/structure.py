"""A model's attention program as a picture: streams are lanes, steps boxes (Figure 1 of the paper, for any model)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from hetexp.program import KINDS, Block, Kind, Step, Stream, Structure
from hetexp.reporting.figures.style import styled

# Ground and letters of each type: told apart with any colour vision, light to dark in grey.
LOOKS: dict[Kind, tuple[str, str]] = {"A": ("#CFE8F7", "black"), "B": ("#F0A860", "black"), "C": ("#1F5F8B", "white")}

COLUMN, WIDTH = 1.36, 1.1  # inches from one column of steps to the next, and of a step's box
LANE, HEIGHT = 0.86, 0.46  # inches from one lane to the next, and of a step's box
LEFT, RIGHT = 0.25, 0.3  # inches of a lane before its first column and behind its last
GAP = 0.14  # inches between two blocks
ASIDE = 0.07  # inches that an arrow to a box begins beside it
TITLE = 0.35  # inches between two structures
ROW = 0.2  # inches from one row of the legend to the next
LINE = "#555555"


@dataclass(frozen=True)
class Placed:
    """One step's place: where its column begins, in inches."""

    step: Step
    x: float


@dataclass(frozen=True)
class Panel:
    """Where everything of one structure is drawn, in inches.

    Attributes:
        structure: what is drawn.
        lanes: stream -> height of its line.
        frames: blocks with where they begin and end, and the streams that they take up.
        groups: the steps of every group.
        end: where the longest lanes end.
    """

    structure: Structure
    lanes: dict[str, float]
    frames: list[tuple[Block, float, float, list[str]]]
    groups: list[list[Placed]]
    end: float

    @property
    def boxes(self) -> list[Placed]:
        return [p for group in self.groups for p in group]

    @property
    def bottom(self) -> float:
        return min(self.lanes.values()) - LANE / 2 - 0.1


def draw_structure(*structures: Structure) -> Figure:
    """Streams from left to right, each step a box on the stream that it updates, folded layers framed with "× n".

    Several structures stand below each other, with one legend.
    """
    panels: list[Panel] = []
    for structure in structures:
        panels.append(_panel(structure, panels[-1].bottom - TITLE if panels else 0.0))
    legend = list(dict.fromkeys(entry for structure in structures for entry in _legend(structure)))
    bottom = panels[-1].bottom
    left, right = -1.25, max(panel.end for panel in panels) + 1.15
    low = bottom - ROW * len(legend)
    with styled():
        figure = plt.figure(figsize=(right - left, 0.15 - low))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(left, right), ylim=(low, 0.15))
        for panel in panels:
            _draw(axes, panel, left + 0.05)
        for i, (mark, text) in enumerate(legend):
            _entry(axes, mark, text, bottom - ROW * (i + 0.5))
    return figure


def _panel(structure: Structure, top: float) -> Panel:
    """A structure whose first lane lies half a lane's height below `top`; blocks stand as far left as they can."""
    lanes = {stream.name: top - LANE * (i + 0.5) for i, stream in enumerate(structure.streams)}
    free = dict.fromkeys(lanes, LEFT)
    frames, groups = [], []
    for block in structure.blocks:
        touched = _between(list(lanes), block.streams)
        start = max(free[name] for name in touched)
        placed = list(_columns(block, start + GAP / 2))
        stop = max(p.x for group in placed for p in group) + COLUMN
        frames.append((block, start, stop, touched))
        groups += placed
        free |= dict.fromkeys(touched, stop + GAP / 2)
    return Panel(structure, lanes, frames, groups, max(free.values()) + RIGHT)


def _draw(axes: Axes, panel: Panel, left: float) -> None:
    lanes = panel.lanes
    for block, start, stop, touched in panel.frames:
        if block.times > 1:
            _frame(axes, block, start, stop, [lanes[name] for name in touched])
    for stream in panel.structure.streams:
        end = panel.end if stream.read else _last_use(stream.name, panel.boxes)
        _lane(axes, stream, lanes[stream.name], end)
    for group in panel.groups:
        if len(group) > 1:
            _together(axes, group, lanes)
    for placed in panel.boxes:
        _box(axes, placed, lanes)
    title = max(lanes.values()) + LANE / 2
    axes.text(left, title, panel.structure.model, ha="left", va="bottom", fontweight="bold", fontsize=9)


def _last_use(stream: str, boxes: list[Placed]) -> float:
    """Where the last step that reads or updates a stream stands."""
    return max(
        (p.x + COLUMN - (COLUMN - WIDTH) / 4 if p.step.query == stream else p.x + (COLUMN - WIDTH) / 2 - ASIDE)
        for p in boxes
        if stream in (p.step.query, p.step.key)
    )


def _between(names: list[str], touched: list[str]) -> list[str]:
    """The lanes from the first to the last of those touched."""
    places = [names.index(name) for name in touched]
    return names[min(places) : max(places) + 1]


def _columns(block: Block, start: float) -> Iterator[list[Placed]]:
    """The steps of each group with their columns; those of one group on different lanes stand above each other."""
    for group in block.groups:
        taken: dict[str, int] = {}
        found = []
        for step in group:
            column = taken.get(step.query, 0)
            taken[step.query] = column + 1
            found.append(Placed(step, start + COLUMN * column))
        yield found
        start += COLUMN * max(taken.values())


def _frame(axes: Axes, block: Block, start: float, stop: float, heights: list[float]) -> None:
    """A frame around the layers that are run several times."""
    low, high = min(heights) - HEIGHT / 2 - 0.12, max(heights) + HEIGHT / 2 + 0.12
    frame = FancyBboxPatch(
        (start, low),
        stop - start,
        high - low,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="#F4F4F4",
        edgecolor="#999999",
        linewidth=0.6,
        zorder=0,
    )
    axes.add_patch(frame)
    axes.text(stop - 0.05, high + 0.03, f"× {block.times}", ha="right", va="bottom", fontsize=8, fontweight="bold")


def _lane(axes: Axes, stream: Stream, y: float, end: float) -> None:
    """A stream's line, its name and tokens on the left, and where a prediction is read from it on the right."""
    axes.plot([0, end], [y, y], color=LINE, linewidth=1.0, zorder=1, solid_capstyle="round")
    axes.plot([0], [y], marker="s" if stream.sources else "o", color=LINE, markersize=4, zorder=2)
    axes.text(-0.12, y + 0.02, stream.name, ha="right", va="bottom", fontweight="bold", fontsize=8)
    inside = [f"{n} {name}" for name, n in stream.sources if (name, n) != (stream.name, stream.tokens)]
    lines = [f"{stream.tokens} token{'s' if stream.tokens != 1 else ''}", *inside]
    axes.text(-0.12, y - 0.03, "\n".join(lines), ha="right", va="top", fontsize=6, linespacing=1.25)
    if stream.read:
        axes.annotate("", (end + 0.22, y), (end, y), arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 1.2})
        axes.text(end + 0.27, y + 0.02, "prediction", ha="left", va="bottom", fontweight="bold", fontsize=7.5)
        axes.text(end + 0.27, y - 0.03, f"from {stream.read}", ha="left", va="top", fontsize=6)


def _together(axes: Axes, group: list[Placed], lanes: dict[str, float]) -> None:
    """A dashed line around steps that read their streams at once."""
    low = min(lanes[p.step.query] for p in group) - HEIGHT / 2 - 0.06
    high = max(lanes[p.step.query] for p in group) + HEIGHT / 2 + 0.06
    left, right = min(p.x for p in group) + 0.08, max(p.x for p in group) + COLUMN - 0.08
    outline = Rectangle((left, low), right - left, high - low, fill=False, edgecolor=LINE, linewidth=0.6, linestyle=":")
    axes.add_patch(outline)


def _box(axes: Axes, placed: Placed, lanes: dict[str, float]) -> None:
    """A step on the lane that it updates, with an arrow from the lane that it attends."""
    step, y = placed.step, lanes[placed.step.query]
    x = placed.x + (COLUMN - WIDTH) / 2
    ground, ink = LOOKS[step.kind]
    axes.add_patch(
        FancyBboxPatch(
            (x, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=ground,
            edgecolor="black",
            linewidth=0.6,
            zorder=3,
        )
    )
    axes.text(x + 0.1, y, step.kind, color=ink, ha="center", va="center", fontweight="bold", fontsize=9, zorder=4)
    across = x + 0.2 + (WIDTH - 0.24) / 2
    what = "self" if step.is_self else f"to {step.key}"
    keys = (
        f"{step.n_query} × {step.n_key}" if step.sampled is None else f"{step.n_query} × {step.sampled} of {step.n_key}"
    )
    more = f"{step.heads} head{'s' if step.heads > 1 else ''}" + ("" if step.sampled is None else ", sampled")
    for shift, text, size in ((0.13, what, 6.5), (0.0, keys, 5.8), (-0.13, more, 5.8)):
        axes.text(across, y + shift, text, color=ink, ha="center", va="center", fontsize=size, zorder=4)
    if not step.is_self:
        from_y = lanes[step.key]
        start = x - ASIDE
        edge = y - HEIGHT / 2 if from_y < y else y + HEIGHT / 2
        axes.plot([start], [from_y], marker="o", color="black", markersize=2.6, zorder=5)
        axes.annotate(
            "",
            (x + 0.3, edge),
            (start, from_y),
            arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 0.9, "shrinkA": 0, "shrinkB": 0},
            zorder=5,
        )


def _legend(structure: Structure) -> Iterator[tuple[str, str]]:
    """What the signs stand for that occur: a type's letter, a marker, or a line."""
    for kind, meaning in KINDS.items():
        if any(step.kind == kind for step in structure.steps):
            yield kind, meaning
    if any(not stream.sources for stream in structure.streams):
        yield "■", "stream with a source, whose tokens get relevance"
        yield "●", "stream without"
    if any(len(group) > 1 for block in structure.blocks for group in block.groups):
        yield "together", "read the streams as they were before any of them"


def _entry(axes: Axes, mark: str, text: str, y: float) -> None:
    """One row of the legend."""
    x = -1.2
    if mark in KINDS:
        ground, ink = next(look for kind, look in LOOKS.items() if kind == mark)
        axes.add_patch(Rectangle((x, y - 0.07), 0.22, 0.14, facecolor=ground, edgecolor="black", linewidth=0.6))
        axes.text(x + 0.11, y, mark, color=ink, ha="center", va="center", fontweight="bold", fontsize=7)
    elif mark == "together":
        axes.add_patch(Rectangle((x, y - 0.06), 0.22, 0.12, fill=False, edgecolor=LINE, linewidth=0.6, linestyle=":"))
    else:
        axes.plot([x + 0.11], [y], marker="s" if mark == "■" else "o", color=LINE, markersize=4)
    axes.text(x + 0.3, y, text, ha="left", va="center", fontsize=6.5)
