"""What a mask keeps of its map: the loss between what a method found and what segmentation scores are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools.coco import COCO

from hetexp.evaluation.ground_truth import grid_mean
from hetexp.evaluation.localisation import relevance_mass_accuracy
from hetexp.evaluation.similarity import rank_correlation
from hetexp.experiments.detection.scenes import ScoredImage
from hetexp.experiments.engine.items import ItemValues


class MaskFidelity:
    """Of every map and its mask at one threshold: the share of relevance that is kept, and how alike their orders are.

    A mask is taken to the map's grid by the share of each cell that it covers.
    """

    panel = "masks"

    def __init__(self, coco: COCO, image_ids: Sequence[int]) -> None:
        self._rows: list[tuple[str, str, float, float]] = []  # item, image, share kept, rank correlation

    def add(self, image: ScoredImage) -> None:
        """Compare the maps of one more image with their masks."""
        for row, (relevance, mask) in enumerate(
            zip(image.relevance.double().numpy(), image.masks.numpy(), strict=True)
        ):
            covered = grid_mean(mask, *relevance.shape).ravel().clip(0, 1)
            kept = relevance_mass_accuracy(relevance.ravel(), covered)
            alike = rank_correlation(relevance.ravel(), covered)
            self._rows.append((f"{image.image_id}:{row}", str(image.image_id), kept, alike))

    def values(self) -> dict[str, float | None]:
        """Nothing besides the means of `items`."""
        return {}

    def items(self) -> Iterator[ItemValues]:
        """Both measures of every map."""
        names, images = [row[0] for row in self._rows], [row[1] for row in self._rows]
        for place, metric in ((2, "kept_relevance"), (3, "rank_correlation")):
            values = np.array([row[place] for row in self._rows], dtype=np.float64)
            yield ItemValues(self.panel, metric, values, names, images, of_masks=True)
