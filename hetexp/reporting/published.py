"""Published numbers.

Source: arXiv 2605.27458, Tables 1 and 2, in percent, measured there on COCO val2017 with facebook/detr-resnet-50.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetexp.reporting.names import PAPER_METHODS

SOURCE = "arXiv 2605.27458"
PAPER_DATA = "COCO val2017, facebook/detr-resnet-50"
PAPER_DATA_NAME = "coco_val2017"  # the data's name in results.csv when it is the paper's own

METRICS = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper."""

    number: int
    title: str
    scale: float
    values: dict[str, tuple[float, ...]]  # metric -> values in the order of PAPER_METHODS

    @property
    def experiment(self) -> str:
        """Its label in results.csv."""
        return f"table{self.number}"

    def value(self, metric: str, method: str) -> float:
        """The published percentage."""
        return self.values[metric][PAPER_METHODS.index(method)]


TABLES = {
    1: PublishedTable(
        number=1,
        title="Weakly supervised segmentation by DETR, threshold of Otsu",
        scale=1.0,
        values={
            "AP": (13.1, 1.9, 8.0, 11.6, 13.2),
            "AP_medium": (14.4, 3.3, 12.2, 13.9, 14.4),
            "AP_large": (24.6, 2.7, 12.3, 20.8, 24.8),
            "AR": (19.3, 4.8, 14.7, 18.0, 19.4),
            "AR_medium": (23.9, 8.0, 23.6, 23.8, 24.0),
            "AR_large": (33.2, 6.4, 19.5, 29.2, 33.3),
        },
    ),
    2: PublishedTable(
        number=2,
        title="Weakly supervised segmentation by DETR, 0.3 times the threshold of Otsu",
        scale=0.3,
        values={
            "AP": (7.1, 2.2, 9.1, 8.9, 7.3),
            "AP_medium": (4.6, 1.3, 8.3, 6.2, 4.8),
            "AP_large": (14.1, 4.3, 18.8, 18.0, 14.5),
            "AR": (11.3, 4.6, 14.5, 13.6, 11.7),
            "AR_medium": (7.8, 2.2, 13.3, 10.3, 8.2),
            "AR_large": (26.7, 11.6, 32.1, 31.6, 27.3),
        },
    ),
}
