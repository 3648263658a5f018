"""Any input explained by several methods: a block of pictures for every source, one below the other."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from matplotlib.figure import Figure

from hetexp.reporting.figures.maps import broken, diverges, show_input, show_map
from hetexp.reporting.figures.scales import own_scale
from hetexp.reporting.figures.sheet import Sheet
from hetexp.reporting.figures.sound import show_over_time, show_spectrogram
from hetexp.reporting.figures.style import PAGE, styled
from hetexp.reporting.figures.text import (
    SIZE,
    names_height,
    printed,
    show_matrix,
    show_words,
    words_height,
)
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import StoredExplanation

LINE = 0.12  # inches from one line of text to the next
ROW = 0.13  # inches of a row of a matrix
NOTE = (
    "Every explained token has its own scale, from its least (dark) to its most relevant token (bright); signed: red "
    "raises y, blue lowers it, white is 0.\n"
    "Grey: special tokens, the token that y is read from, and written ones after it."
)


def draw_sources(explanation: StoredExplanation) -> Figure:
    """The picture, the sound and the text of an input, each shaded by every method.

    One explained token shades the words themselves; several make a matrix, a row each.
    """
    with styled():
        return _Page(explanation).figure()


class _Page:
    """Lays blocks out one below the other."""

    def __init__(self, explanation: StoredExplanation) -> None:
        self.shown = explanation
        self.methods = explanation.methods
        self.rows = [str(name) for name in explanation.info["explained"]]
        self.texts: dict[str, list[str]] = explanation.info["token_texts"]
        self.left = 0.25 + max(names_height(self.rows), 0.2)

    def figure(self) -> Figure:
        heads = self._head()
        parts = [self._image_size(), self._sound_size(), self._text_size()]
        sheet = Sheet(PAGE, 0.08 + LINE * len(heads) + sum(parts) + 0.3)
        sheet.text(PAGE / 2, 0.02, "\n".join(heads), size=7.5)
        y = 0.08 + LINE * len(heads)
        for size, draw in zip(parts, (self._image, self._sound, self._text), strict=True):
            if size:
                draw(sheet, y)
            y += size
        sheet.text(PAGE / 2, sheet.height - 0.26, NOTE, size=5.8)
        return sheet.figure

    def _head(self) -> list[str]:
        """What was explained, a line or two."""
        targets = self.shown.info["targets"]
        return [f"y = {printed(targets[0])}" if len(targets) == 1 else f"{len(targets)} tokens, y = each token's logit"]

    # -- pictures ------------------------------------------------------------------------------------------------

    def _image_size(self) -> float:
        if not self._has("image"):
            return 0.0
        cell = self._cell()
        return 0.3 + len(self.rows) * (cell * self._tall() + 0.05)

    def _tall(self) -> float:
        height, width = self.shown.ground.shape[:2]
        return float(min(height / width, 1.4))

    def _cell(self) -> float:
        return float(min(1.45, (PAGE - self.left) / (len(self.methods) + 1)))

    def _image(self, sheet: Sheet, top: float) -> None:
        ground, cell = self.shown.ground, self._cell()
        left = max(self.left, (PAGE - (len(self.methods) + 1) * cell) / 2)
        names = ["Input", *(broken(method_name(m), cell) for m in self.methods)]
        for column, name in enumerate(names):
            sheet.text(left + (column + 0.5) * cell, top, name)
        for number, row in enumerate(self.rows):
            y = top + 0.26 + number * (cell * self._tall() + 0.05)
            size = cell - 0.05, cell * self._tall()
            sheet.text(left - 0.1, y + size[1] / 2, printed(row), size=SIZE, upright=True)
            show_input(sheet.axes(left, y, *size), ground)
            for column, method in enumerate(self.methods, 1):
                maps = self.shown.need(f"{method}/image")
                ax = sheet.axes(left + column * cell, y, *size)
                show_map(ax, ground, maps[number], own_scale(maps[number], diverges(method, maps)))

    # -- sound ---------------------------------------------------------------------------------------------------

    def _sound_size(self) -> float:
        return 1.3 + len(self.methods) * (LINE + 0.08 + ROW * len(self.rows)) if self._has("audio") else 0.0

    def _sound(self, sheet: Sheet, top: float) -> None:
        seconds, width = float(self.shown.info["seconds"]), PAGE - self.left - 0.1
        show_spectrogram(sheet.axes(self.left, top, width, 0.8), self.shown.need("spectrogram"), seconds)
        y = top + 0.86
        for method in self.methods:
            found = self.shown.need(f"{method}/audio")
            sheet.text(self.left + width / 2, y, method_name(method), size=6.6)
            tall = ROW * len(self.rows)
            ax = sheet.axes(self.left, y + LINE, width, tall)
            show_over_time(ax, self.rows, found, seconds, diverges(method, found), method == self.methods[-1])
            y += LINE + 0.08 + tall

    # -- text ----------------------------------------------------------------------------------------------------

    @property
    def _sequences(self) -> list[str]:
        return [s for s in self.texts if self._has(s) and len(self.texts[s])]

    def _left_out(self, source: str, row: int) -> set[int]:
        """Positions of a source that hold no relevance for a row."""
        return set(self.shown.info["without_relevance"][source][row])

    def _tokens(self, method: str) -> tuple[list[str], np.ndarray, list[Collection[int]]]:
        """All sequences of tokens beside each other, with relevance [k, N] and what is grey of each row."""
        tokens: list[str] = []
        left_out: list[set[int]] = [set() for _ in self.rows]
        found = []
        for source in self._sequences:
            for row, out in enumerate(left_out):
                out |= {len(tokens) + i for i in self._left_out(source, row)}
            tokens += self.texts[source]
            found.append(self.shown.need(f"{method}/{source}"))
        return tokens, np.concatenate(found, axis=1), list(left_out)

    def _text_size(self) -> float:
        if not self._sequences:
            return 0.0
        tokens = [t for s in self._sequences for t in self.texts[s]]
        if len(self.rows) == 1:
            return len(self.methods) * (LINE + words_height(tokens, PAGE - 0.2) + 0.05)
        return LINE + len(self.methods) * (LINE + ROW * len(self.rows) + 0.06) + names_height(tokens) + 0.1

    def _text(self, sheet: Sheet, top: float) -> None:
        y = top
        if len(self.rows) > 1:
            self._name_sources(sheet, y)
            y += LINE
        for method in self.methods:
            tokens, relevance, left_out = self._tokens(method)
            signed = diverges(method, relevance)
            sheet.text(PAGE / 2, y, method_name(method), size=6.6)
            if len(self.rows) == 1:
                tall = words_height(tokens, PAGE - 0.2)
                show_words(sheet.axes(0.1, y + LINE, PAGE - 0.2, tall), tokens, relevance[0], left_out[0], signed)
                y += LINE + tall + 0.05
                continue
            tall, width = ROW * len(self.rows), PAGE - self.left - 0.1
            last = method == self.methods[-1]
            ax = sheet.axes(self.left, y + LINE, width, tall)
            show_matrix(ax, self.rows, tokens, relevance, left_out, signed, name_columns=last)
            edge = -0.5
            for source in self._sequences[:-1]:  # a line where the next source begins
                edge += len(self.texts[source])
                ax.axvline(edge, color="black", linewidth=0.8)
            y += LINE + tall + 0.06

    def _name_sources(self, sheet: Sheet, y: float) -> None:
        """What is read and what is written, above the columns of each."""
        counts = [len(self.texts[s]) for s in self._sequences]
        cell, before = (PAGE - self.left - 0.1) / sum(counts), 0
        for source, count in zip(self._sequences, counts, strict=True):
            name = f"{source} (written)" if source == self.shown.info["written"] else source
            sheet.text(self.left + cell * (before + count / 2), y, name, size=6.2)
            before += count

    def _has(self, source: str) -> bool:
        return any(f"{m}/{source}" in self.shown.relevance for m in self.methods)
