"""The share of a map that is foreground, whatever its values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.strategy import GreyMaps


@dataclass(frozen=True)
class Quantile:
    """The least grey level with at most `share` of a map's tokens above it.

    Tokens of one grey level stay together, so that a mask may be smaller than the share, never larger; with
    ``threshold.tie=foreground`` the tokens at the level belong to it as well.

    Attributes:
        share: of the tokens, above 0 and below 1.

    Raises:
        ConfigError: for another share.
    """

    share: float = 0.1
    scalable: ClassVar[bool] = False
    needs_objects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise ConfigError(f"share={self.share!r} of quantile must be a number above 0 and below 1, e.g. 0.1")

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        """Thresholds by image, uint8 [k]."""
        return [self._of(image.u8.flatten(1)) for image in images]

    def _of(self, values: Tensor) -> Tensor:
        count = values.shape[1]
        most = int(self.share * count + 1e-9)  # 0.29 x 100 is 28.999999999999996
        return values.sort(dim=1).values[:, count - most - 1]
