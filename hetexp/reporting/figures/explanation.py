"""One input explained by several methods, beside each other."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.errors import DataError
from hetexp.reporting.figures.maps import broken, diverges, show_input, show_map
from hetexp.reporting.figures.questions import SCALE_NOTE, draw_across, method_row
from hetexp.reporting.figures.scales import own_scale
from hetexp.reporting.figures.sources import draw_sources
from hetexp.reporting.figures.style import styled
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import StoredExplanation

SIDE = 640  # pixels of a drawn image: a cell, two inches at most, has fewer in print
LINE = 0.12  # inches from one line of text to the next


def draw_explanation(explanation: StoredExplanation) -> Figure:
    """The methods of an explanation beside each other: a row per detection, the question with words and regions, or
    every source of another model.

    Neither masks nor the image have to be there; without an image maps are drawn on white.

    Raises:
        DataError: if it holds no method's relevance.
    """
    if not explanation.methods:
        raise DataError(f"{explanation.source} holds no relevance of {', '.join(explanation.info['methods'])}")
    shown = explanation.at_most(SIDE)
    if shown.kind == "detection":
        return _detections(shown)
    return _question(shown) if shown.kind == "vqa" else draw_sources(shown)


def row_text(explanation: StoredExplanation, row: int) -> str:
    """The detection of a row, and what was explained where it is not the logit of the class detected.

    For instance "person 0.97" or "person 0.97, y = logit(zebra)".
    """
    found, targets = explanation.info["detections"], explanation.info.get("targets")
    text = f"{found[row]['label']} {found[row]['score']:.2f}"
    if targets is None or targets[row] == f"logit({found[row]['label']})":
        return text
    return f"{text}, y = {targets[row]}"


def _detections(explanation: StoredExplanation) -> Figure:
    found, methods, ground = explanation.info["detections"], explanation.methods, explanation.ground
    height, width = ground.shape[:2]
    first = 0 if explanation.image is None else 1  # column of the first method
    cell = 1.45
    tall = cell * min(height / width, 1.4)
    with styled():
        titles = [*["Input"][:first], *(broken(method_name(m), cell) for m in methods)]
        labels = [broken(row_text(explanation, row), tall) for row in range(len(found))]
        left = 0.2 + LINE * max(label.count("\n") for label in labels)
        head, foot = 0.2 + LINE * max(title.count("\n") for title in titles), 0.17
        across, down = left + cell * len(titles), (tall + 0.06) * len(found) + head + foot
        figure, axes = plt.subplots(len(found), len(titles), figsize=(across, down), squeeze=False)
        edges = {"left": left / across, "right": 1, "bottom": foot / down, "top": 1 - head / down}
        figure.subplots_adjust(**edges, wspace=0.03, hspace=0.04)
        figure.text(0.5, 0, SCALE_NOTE, ha="center", va="bottom", fontsize=6)
        for row, label in enumerate(labels):
            if first:
                show_input(axes[row, 0], ground, explanation.pixels(found[row]["box"]))
            axes[row, 0].set_ylabel(label)
        for column, method in enumerate(methods, first):
            maps = explanation.need(method)
            for ax, relevance in zip(axes[:, column], maps, strict=True):
                show_map(ax, ground, relevance, own_scale(relevance, diverges(method, maps)))
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, pad=3)
    return figure


def _question(explanation: StoredExplanation) -> Figure:
    targets = dict.fromkeys(t for m in explanation.methods for t in explanation.further_targets(m))
    shown: list[tuple[str, str | None]] = [(m, None) for m in explanation.methods]
    shown += [(m, t) for t in targets for m in explanation.methods if t in explanation.further_targets(m)]
    return draw_across(explanation, [method_row([explanation], m, t) for m, t in shown])
