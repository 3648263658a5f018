"""Finished runs on disk: which one is the newest of an experiment, and what it says."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from hetexp.errors import DataError
from hetexp.paths import files_named
from hetexp.reporting.commands import MissingInput, experiment_command
from hetexp.reporting.names import OTSU

SEARCHED = ("runs", "sweeps", "shards", "merged")  # folders below outputs that hold runs


@dataclass(frozen=True)
class Run:
    """A run folder with its results."""

    folder: Path
    frame: pd.DataFrame

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its `config.yaml`; empty for a sweep's own folder, whose jobs hold theirs."""
        return _structure(self.folder / "config.yaml", lambda text: OmegaConf.to_container(OmegaConf.create(text)))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Its `run.json`."""
        return _structure(self.folder / "run.json", json.loads)

    @property
    def command(self) -> str:
        """The command line that made it, from the overrides Hydra recorded."""
        path = self.folder / ".hydra" / "overrides.yaml"
        experiment = str(self.frame["experiment"].iloc[0])
        if not path.is_file():
            return experiment_command(experiment)
        return shlex.join(["python", "run.py", *map(str, OmegaConf.load(path))])


def _structure(path: Path, parse: Any) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except Exception as error:  # JSON, YAML and OmegaConf each raise classes of their own
        raise DataError(f"{path} is damaged ({error}): run the command again that wrote it") from error
    return found if isinstance(found, dict) else {}


def read_run(results: Path) -> Run:
    """The run behind a `results.csv`, or behind a folder that holds one.

    Raises:
        DataError: if it is missing or no results table.
    """
    path = results / "results.csv" if results.is_dir() else results
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a run folder or its results.csv")
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"experiment": str})
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} is no results table ({error}): run the command again that wrote it") from error
    missing = {"experiment", "method", "threshold", "panel", "metric", "value", "n"} - set(frame)
    if missing:
        raise DataError(f"{path} lacks the column(s) {', '.join(sorted(missing))}: it was not written by a run")
    return Run(path.parent, frame)


def by_otsu(run: Run) -> Run:
    """The run, if its masks were made at multiples of Otsu's threshold, as tables and figures say of them.

    Under a choice, whose name says what was changed, numbers may have been made by any strategy; the first one
    changes nothing.

    Raises:
        MissingInput: for masks by another strategy.
    """
    frame = run.frame
    if "choice" in frame:
        frame = frame[frame["choice"] == frame["choice"].iloc[0]]
    if others := other_strategies(frame):
        raise MissingInput(
            f"masks of {run.folder} were made by {', '.join(others)}, and tables and figures compare masks at "
            "multiples of Otsu's threshold: read its results.csv, or run it again with threshold=otsu"
        )
    return run


def other_strategies(frame: pd.DataFrame) -> list[str]:
    """The strategies besides Otsu's that results were made by; those of a release ago do not name theirs."""
    return sorted(set(frame["strategy"].dropna()) - {OTSU}) if "strategy" in frame else []


def newest_run(outputs: Path, experiment: str) -> Run:
    """The most recently written run of an experiment; a sweep counts as one run, not by its jobs.

    Raises:
        MissingInput: if there is none, the message names the command that makes one; or if the newest one has masks by
            another strategy than Otsu's.
        DataError: if the newest one is damaged.
    """
    paths = [p for name in SEARCHED for p in files_named("results.csv", outputs / name)]
    sweeps = {p.parent for p in paths if (p.parent / "multirun.yaml").is_file()}
    paths = [p for p in paths if not sweeps & set(p.parent.parents)]
    for path in sorted(paths, key=lambda p: (p.stat().st_mtime_ns, str(p)), reverse=True):
        run = read_run(path)
        if (run.frame["experiment"] == experiment).any():
            return by_otsu(Run(run.folder, run.frame[run.frame["experiment"] == experiment].reset_index(drop=True)))
    raise MissingInput(
        f"no finished run of {experiment} below {outputs}: make one with `{experiment_command(experiment)}`"
    )
