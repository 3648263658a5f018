"""Rectangles of an image that every mask of one token grid covers wholly or not at all.

Upsampling is separable: whether a pixel is foreground depends on the weights with which its row and its column read
the tokens. Neighbouring rows whose weights lead to the same pixels whatever the mask form a band, columns likewise,
and two bands cross in a cell. Areas and overlaps of any number of masks follow from the pixels that objects have in
each cell, so that neither methods nor thresholds cost a pass over pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetexp.evaluation.masks import axis_weights, mask_upsampling
from hetexp.evaluation.upsampling import Upsampling

Ints = NDArray[np.int64]
Patterns = tuple[NDArray[Any], NDArray[Any]]  # of rows and of columns


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one image; arrays over cells run through the rows of a column band first, as COCO's run lengths do.

    Attributes:
        size: of the image, (height, width).
        rows: first row of each row band [a].
        columns: first column of each column band [b].
        weights: of the tokens in a row and in a column of each band [a, h], [b, w]; None where a band is a pixel.
        level: above which a pixel is foreground.
    """

    size: tuple[int, int]
    rows: Ints
    columns: Ints
    weights: tuple[Tensor, Tensor] | None = None
    level: float = 0.0

    @classmethod
    def of(
        cls, grid: Sequence[int], input_size: Sequence[int], image_size: Sequence[int], upsample: Upsampling
    ) -> Cells:
        """Cells of masks [h, w] upsampled as `hetexp.evaluation.masks.segment` does; sizes are (height, width)."""
        sizes = (tuple(map(int, size)) for size in (grid, input_size, image_size))
        return _cells(*sizes, Upsampling(upsample))

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """Pixels of each cell [a * b]."""
        high, wide = (
            np.diff(start, append=side) for start, side in zip((self.rows, self.columns), self.size, strict=True)
        )
        return np.outer(wide, high).reshape(-1).astype(np.float64)

    def cover(self, masks: Tensor) -> NDArray[np.float64]:
        """Which cells are foreground, 0 or 1 [n, a * b].

        Args:
            masks: bool, of tokens [n, h, w], or of pixels [n, H, W] where cells are pixels.
        """
        if self.weights is not None:
            row, column = self.weights
            masks = row.to(masks.device) @ masks.float() @ column.T.to(masks.device) > self.level
        return masks.transpose(1, 2).flatten(1).cpu().numpy().astype(np.float64)

    def count(self, codes: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Pixels of each object in each cell [n, a * b], from COCO's compressed run lengths of this image's size."""
        if not codes:
            return np.zeros((0, len(self.columns) * len(self.rows)))
        height = self.size[0]
        changes = [run_lengths(code["counts"]).cumsum() for code in codes]
        first = np.concatenate([ends[:-1:2] for ends in changes])
        last = np.concatenate([ends[1::2] for ends in changes]) - 1
        owner = np.repeat(np.arange(len(codes)), [len(ends) // 2 for ends in changes])
        owner, first, last = (values[last >= first] for values in (owner, first, last))
        # runs go down a column and on at the top of the next: one piece for each column
        pieces = last // height - first // height + 1
        start = np.repeat(pieces.cumsum() - pieces, pieces)
        column = np.repeat(first // height, pieces) + np.arange(len(start)) - start
        top = np.maximum(np.repeat(first, pieces) - column * height, 0)
        bottom = np.minimum(np.repeat(last, pieces) - column * height, height - 1) + 1
        edges = np.append(self.rows, height)
        inside = np.diff(np.clip(edges, top[:, None], bottom[:, None]), axis=1)
        band = np.repeat(owner, pieces) * len(self.columns) + np.searchsorted(self.columns, column, side="right") - 1
        found = np.zeros((len(codes) * len(self.columns), len(self.rows)))
        bands, begin = np.unique(band, return_index=True)
        if len(bands):
            found[bands] = np.add.reduceat(inside, begin, axis=0)
        return found.reshape(len(codes), -1)


def run_lengths(counts: str | bytes) -> Ints:
    """COCO's compressed run lengths as numbers, background first.

    Lengths are stored in groups of five bits, the lowest first, from the third on as differences to the last but one.
    """
    symbols = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if not len(symbols):
        return symbols
    final = (symbols & 0x20) == 0
    begin = np.flatnonzero(np.append(True, final[:-1]))
    sizes = np.diff(begin, append=len(symbols))
    place = np.arange(len(symbols)) - np.repeat(begin, sizes)
    values = np.add.reduceat((symbols & 0x1F) << (5 * place), begin)
    values -= np.where(symbols[final] & 0x10, np.int64(1) << (5 * sizes), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return np.asarray(values)


@lru_cache(maxsize=256)
def _cells(
    grid: tuple[int, int], input_size: tuple[int, int], image_size: tuple[int, int], upsample: Upsampling
) -> Cells:
    if upsample == Upsampling.bilinear_relevance:  # thresholded at the size of the input: any pixel for itself
        return Cells(image_size, np.arange(image_size[0]), np.arange(image_size[1]))
    mode, level = mask_upsampling(upsample)
    row, column = (axis_weights(*sizes, mode) for sizes in zip(grid, input_size, image_size, strict=True))
    patterns: Patterns = row.numpy(), column.numpy()
    if upsample == Upsampling.reference:
        patterns = _touching(*patterns, level) or patterns
    rows, columns = (np.flatnonzero(np.append(True, (p[1:] != p[:-1]).any(axis=1))) for p in patterns)
    weights = row[torch.from_numpy(rows)], column[torch.from_numpy(columns)]
    return Cells(image_size, rows, columns, weights, level)


def _touching(rows: NDArray[Any], columns: NDArray[Any], level: float) -> Patterns | None:
    """Weights as what they do: with how many of the other axis' weights each exceeds the level.

    None where sums of several small products, and not only single ones, could decide a pixel.
    """
    ours, theirs = np.unique(rows), np.unique(columns)
    products = np.outer(ours, theirs)
    if ((products <= level) & (products > level / 5)).any():  # at most four tokens meet in a pixel
        return None
    exceed = products > level
    return exceed.sum(axis=1)[np.searchsorted(ours, rows)], exceed.sum(axis=0)[np.searchsorted(theirs, columns)]
