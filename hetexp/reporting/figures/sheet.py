"""A figure whose places are given in inches."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Rect = tuple[float, float, float, float]


class Sheet:
    """A figure whose places are given in inches from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = plt.figure(figsize=(width, height))

    def rect(self, x: float, y: float, w: float, h: float) -> Rect:
        """That place in the figure's own units."""
        return x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height

    def axes(self, x: float, y: float, w: float, h: float) -> Axes:
        return self.figure.add_axes(self.rect(x, y, w, h))

    def text(self, x: float, y: float, text: str, size: float = 7, upright: bool = False) -> None:
        """Text centred at x; its top at y, or, upright, its middle."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            ha="center",
            va="center" if upright else "top",
            rotation=90 if upright else 0,
            fontsize=size,
            linespacing=1.15,
        )

    def lines_above(self, x: float, y: float, text: str, size: float = 7) -> None:
        """Lines centred at x, the last one's baseline at y: texts side by side stand on common lines."""
        for number, line in enumerate(reversed(text.split("\n"))):
            at = y - number * 1.2 * size / 72
            self.figure.text(x / self.width, 1 - at / self.height, line, ha="center", va="baseline", fontsize=size)
