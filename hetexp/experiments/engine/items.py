"""Values of single items behind a run's numbers: their means with intervals, and what a run leaves for paired tests.

<run>/items/units.parquet      the images in the order in which resamples count them
            values.parquet     method, threshold, panel, metric, item, image, value
            matches.parquet    method, threshold, panel and the file that holds COCO's matches
            matches-<n>.safetensors
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hetexp.errors import DataError
from hetexp.evaluation.bootstrap import Counts, mean_estimate, resample_counts
from hetexp.evaluation.matches import Matches
from hetexp.experiments.engine.results import Result
from hetexp.files import atomic_folder

ITEMS = "items"
VALUE_COLUMNS = ["method", "threshold", "panel", "metric", "item", "image", "value"]
MATCH_COLUMNS = ["method", "threshold", "panel", "file"]


class Named(Protocol):
    """What a result is of: a method, or a control."""

    @property
    def name(self) -> str: ...

    def parameter(self, name: str) -> str:
        """A parameter as results.csv shows it; empty where there is none of that name."""
        ...


@dataclass(frozen=True)
class ItemValues:
    """Values of single items, whose mean in percent is a result.

    Attributes:
        panel: which part of the experiment.
        metric: what was measured.
        values: [n], each in 0..1.
        items: name of each, the same for all methods [n].
        images: the image that each belongs to [n].
        of_masks: whether they depend on the threshold.
    """

    panel: str
    metric: str
    values: NDArray[np.float64]
    items: Sequence[str]
    images: Sequence[str]
    of_masks: bool = False


@dataclass
class ItemRecord:
    """Collects the item values and matches of a run, and gives results their intervals.

    Attributes:
        units: every image of the run, with or without items.
        resamples: behind the intervals; 0 leaves them out.
        seed: of the resamples.
    """

    units: Sequence[str]
    resamples: int
    seed: int
    values: list[pd.DataFrame] = field(default_factory=list)
    matches: list[tuple[dict[str, Any], Matches]] = field(default_factory=list)

    @cached_property
    def counts(self) -> Counts:
        """How often each image is drawn in each resample."""
        return resample_counts(len(self.units), self.resamples, self.seed)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {unit: place for place, unit in enumerate(self.units)}

    def mean(self, spec: Named | None, measured: ItemValues, threshold: float | None = None) -> Result:
        """The mean of item values as a result, in percent; without a value if there are none."""
        result = Result(spec, measured.panel, measured.metric, None, len(measured.values), threshold)
        if not len(measured.values):
            return result
        self.values.append(
            pd.DataFrame(
                {
                    "method": spec.name if spec else "",
                    "threshold": threshold,
                    "panel": measured.panel,
                    "metric": measured.metric,
                    "item": list(measured.items),
                    "image": list(measured.images),
                    "value": measured.values,
                }
            )
        )
        value = 100 * float(measured.values.mean())
        if not self.resamples:
            return Result(spec, measured.panel, measured.metric, value, len(measured.values), threshold)
        places = [self._place[image] for image in measured.images]
        low, high = mean_estimate(measured.values, places, self.counts).scaled(100).interval()
        return Result(spec, measured.panel, measured.metric, value, len(measured.values), threshold, low, high)

    def matched(
        self,
        spec: Named,
        panel: str,
        values: Mapping[str, float | None],
        matches: Matches,
        threshold: float,
        ends: Mapping[str, tuple[float, float]],
    ) -> list[Result]:
        """COCO's metrics of a method as results; `values` and the `ends` of their intervals are in percent."""
        self.matches.append(({"method": spec.name, "threshold": threshold, "panel": panel}, matches))
        return [
            Result(spec, panel, metric, value, len(self.units), threshold, *ends.get(metric, (None, None)))
            for metric, value in values.items()
        ]

    def write(self, folder: Path) -> None:
        """Write everything collected into `<folder>/items`, whole or not at all.

        Raises:
            DataError: if the disk refuses.
        """
        try:
            with atomic_folder(folder / ITEMS, replace=True) as temporary:
                pd.DataFrame({"image": list(self.units)}, dtype=str).to_parquet(temporary / "units.parquet")
                _joined(self.values, VALUE_COLUMNS).to_parquet(temporary / "values.parquet")
                rows = [{**about, "file": f"matches-{n}.safetensors"} for n, (about, _) in enumerate(self.matches)]
                pd.DataFrame(rows, columns=MATCH_COLUMNS).to_parquet(temporary / "matches.parquet")
                mode = (temporary / "units.parquet").stat().st_mode  # what the umask allows; safetensors writes 0600
                for row, (_, matches) in zip(rows, self.matches, strict=True):
                    save_file(matches.arrays(), temporary / row["file"])
                    (temporary / row["file"]).chmod(mode)
        except OSError as error:
            raise DataError(f"cannot write {folder / ITEMS} ({error}): free some space") from error


def _joined(frames: Iterable[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """One table; repeated texts as categories, which take a byte or two each."""
    found = list(frames)
    if not found:
        return pd.DataFrame(columns=columns)
    frame = pd.concat([f.assign(threshold=f["threshold"].astype("float64")) for f in found], ignore_index=True)
    texts = ("method", "panel", "metric", "item", "image")
    return frame[columns].astype(dict.fromkeys(texts, "category"))
