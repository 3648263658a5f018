"""Which range of relevance colours stand for; apart from what draws them, since the configuration knows the names."""

from __future__ import annotations

from enum import StrEnum


class Contrast(StrEnum):
    """Which range of relevance the colours of a map stand for.

    Attributes:
        own: from the map's own minimum to its own maximum, as it is binarised; signed, as far as it goes about 0.
        shared: one range for all maps of a row, which have one unit: from the least to the most of any of them.
        log: by decades, from a thousandth of the map's maximum up to it, so that a low background is seen.
    """

    own = "own"
    shared = "shared"
    log = "log"
