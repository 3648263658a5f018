"""One input explained by several methods, beside each other."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hetexp.reporting.figures.maps import show_input, show_map
from hetexp.reporting.figures.questions import SCALE_NOTE, Row, draw_across
from hetexp.reporting.figures.style import styled
from hetexp.reporting.names import in_order, method_name
from hetexp.reporting.samples import Sample


def draw_explanation(sample: Sample) -> Figure:
    """The methods of a sample beside each other: a row per detection, or the question with words and regions."""
    methods = in_order(set(sample.info["methods"]))
    return _detections(sample, methods) if sample.info["kind"] == "detr" else _question(sample, methods)


def _detections(sample: Sample, methods: list[str]) -> Figure:
    found = sample.info["detections"]
    height, width = sample.image.shape[:2]
    cell, head, foot = 1.45, 0.2, 0.17
    across, down = cell * (len(methods) + 1), (cell * min(height / width, 1.4) + 0.06) * len(found) + head + foot
    with styled():
        figure, axes = plt.subplots(len(found), len(methods) + 1, figsize=(across, down), squeeze=False)
        edges = {"left": 0.2 / across, "right": 1, "bottom": foot / down, "top": 1 - head / down}
        figure.subplots_adjust(**edges, wspace=0.03, hspace=0.04)
        figure.text(0.5, 0, SCALE_NOTE, ha="center", va="bottom", fontsize=6)
        for row, detection in enumerate(found):
            show_input(axes[row, 0], sample.image, detection["box"])
            axes[row, 0].set_ylabel(f"{detection['label']} {detection['score']:.2f}")
            for ax, method in zip(axes[row, 1:], methods, strict=True):
                show_map(ax, sample.image, sample.need(method)[row])
        for ax, name in zip(axes[0], ["Input", *map(method_name, methods)], strict=True):
            ax.set_title(name, pad=3)
    return figure


def _question(sample: Sample, methods: list[str]) -> Figure:
    def signed(method: str) -> bool:
        return bool((sample.need(f"{method}/image") < 0).any() or (sample.need(f"{method}/text") < 0).any())

    return draw_across(sample, [Row(method_name(m), m, signed=signed(m)) for m in methods])
