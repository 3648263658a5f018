"""What a finished run left of single images and items, as estimates on common resamples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hetexp.errors import DataError
from hetexp.evaluation.bootstrap import Counts, Estimate, mean_estimate, resample_counts
from hetexp.evaluation.matches import Matches
from hetexp.reporting.runs import Run

ITEMS = "items"


class NoSuchObjects(DataError):
    """A run measured something, but its data has none of the objects in question."""


@dataclass(frozen=True)
class Resampling:
    """How often, and from which seed, images are drawn: the same for everything that is compared."""

    resamples: int
    seed: int


class Measurements:
    """The item values and matches of one run.

    Args:
        run: a finished run.
        resampling: of its images.
    """

    def __init__(self, run: Run, resampling: Resampling) -> None:
        self.run, self.resampling = run, resampling
        self._of_matches: dict[tuple[str, float | None, str], tuple[Matches, dict[str, Estimate]]] = {}

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.run.folder / ITEMS

    def estimate(self, method: str, panel: str, metric: str, threshold: float | None = None) -> Estimate:
        """A number of the run, in percent, with its value on every resample.

        Raises:
            NoSuchObjects: if the data has no objects that it is about.
            DataError: if the run did not measure it, or left no items.
        """
        rows = self._results(method, panel, threshold)
        if metric in set(rows["metric"]) and rows.loc[rows["metric"] == metric, "value"].isna().all():
            raise NoSuchObjects(f"the data of {self.run.folder} has no objects for {metric}")
        rows = self._rows(self._matches, method, threshold, panel)
        if len(rows):
            key = (method, threshold, panel)
            if key not in self._of_matches:
                self._of_matches[key] = Matches.from_arrays(_arrays(self.folder / str(rows["file"].iloc[0]))), {}
            matches, known = self._of_matches[key]
            if metric not in known:
                # those of the same objects are made of the same curves; other sizes would cost as much again
                measured = set(self._results(method, panel, threshold).dropna(subset="value")["metric"])
                alike = [name for name in matches.names if name[2:] == metric[2:] and name in measured]
                known |= matches.estimates(self.counts, alike) if metric in alike else {}
            if metric in known:
                return known[metric]
        return self.mean(self.values(method, panel, metric, threshold))

    def values(self, method: str, panel: str, metric: str, threshold: float | None = None) -> pd.DataFrame:
        """Item values, 0..1: item, image, value.

        Raises:
            DataError: if there are none.
        """
        found = self._by_key.get((method, panel, metric), self._values.iloc[:0])
        found = self._rows(found, method, threshold, panel)
        if found.empty:
            at = "" if threshold is None else f" at threshold {threshold:g}"
            raise DataError(
                f"{self.run.folder} holds no {metric} of {method} in {panel or 'the model itself'}{at}: it measured "
                f"{', '.join(sorted({' '.join(key[1:]) for key in self._by_key})) or 'nothing item by item'}"
            )
        return found[["item", "image", "value"]]

    def mean(self, items: pd.DataFrame) -> Estimate:
        """The mean of item values in percent, images drawn whole."""
        places = items["image"].astype(str).map(self._place)
        return mean_estimate(items["value"].to_numpy(dtype=float), places.to_numpy(dtype=int), self.counts).scaled(100)

    def paired(self, one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        """Two methods' item values side by side: item, image, value and other, for the same items.

        Raises:
            DataError: if their items differ.
        """
        joined = one.merge(other[["item", "value"]].rename(columns={"value": "other"}), on="item", how="outer")
        if len(joined) != len(one) or joined[["value", "other"]].isna().any(axis=None):
            raise DataError(f"two methods of {self.run.folder} were measured on different items: run them together")
        return joined

    @cached_property
    def counts(self) -> Counts:
        """How often each image is drawn in each resample."""
        return resample_counts(len(self._place), self.resampling.resamples, self.resampling.seed)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(image): place for place, image in enumerate(self._table("units")["image"])}

    @cached_property
    def _values(self) -> pd.DataFrame:
        return self._table("values")

    @cached_property
    def _by_key(self) -> dict[tuple[str, ...], pd.DataFrame]:
        return dict(list(self._values.groupby(["method", "panel", "metric"], observed=True)))

    @cached_property
    def _matches(self) -> pd.DataFrame:
        return self._table("matches")

    def _results(self, method: str, panel: str, threshold: float | None) -> pd.DataFrame:
        """Rows of results.csv."""
        return self._rows(self.run.frame, method, threshold, panel)

    @staticmethod
    def _rows(frame: pd.DataFrame, method: str, threshold: float | None, panel: str) -> pd.DataFrame:
        at = frame["threshold"].astype(float)
        fitting = at.isna() if threshold is None else (at - threshold).abs() < 1e-9
        return frame[(frame["method"] == method) & (frame["panel"] == panel) & fitting]

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.parquet"
        try:
            return pd.read_parquet(path)
        except FileNotFoundError as error:
            raise DataError(
                f"{self.run.folder} holds no single items, which intervals are made of: make the run again with "
                f"`{self.run.command}`"
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): make the run again with `{self.run.command}`") from error


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}): make its run again") from error
