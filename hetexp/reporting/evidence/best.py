"""Which method of a column is the best, as far as a run's single items decide it: what tables set in bold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from hetexp.evaluation.bootstrap import Estimate
from hetexp.reporting.evidence.decide import measurements_of
from hetexp.reporting.evidence.ledger import read_ledger
from hetexp.reporting.evidence.measurements import ITEMS, Measurements
from hetexp.reporting.names import is_control
from hetexp.reporting.runs import Run, read_run

NOTE = "Bold: best, where the 95 % interval of its paired difference from the runner-up excludes 0; controls aside."


def decided_best(
    values: Mapping[str, float | None], estimate: Callable[[str], Estimate], smaller: bool = False
) -> str | None:
    """The best method, if the interval of its paired difference from the runner-up excludes 0; controls do not count.

    Args:
        values: of methods; those without one, None or NaN, do not count.
        estimate: of a method's value, on the resamples of the others.
        smaller: whether smaller is better.
    """
    sign = -1.0 if smaller else 1.0
    known = {m: sign * v for m, v in values.items() if v is not None and not pd.isna(v) and not is_control(m)}
    if len(known) < 2:
        return None
    best, runner_up = sorted(known, key=lambda method: -known[method])[:2]
    low, _ = (estimate(best) - estimate(runner_up)).scaled(sign).interval()
    return best if low > 0 else None


def items_of(run: Run) -> Measurements | None:
    """What a run left of single items, or the one job of a sweep that ran the same models; None where nothing is left.

    Raises:
        DataError: if what is left is damaged.
    """
    runs = [run] if (run.folder / ITEMS).is_dir() else _jobs(run)
    found = measurements_of(runs[0], read_ledger()) if len(runs) == 1 else ""
    return None if isinstance(found, str) else found


def _jobs(run: Run) -> list[Run]:
    """Jobs of a sweep that ran the same models."""
    jobs = [read_run(path.parent) for path in sorted(run.folder.glob(f"[0-9]*/{ITEMS}"))]
    return [job for job in jobs if set(job.frame["model"]) == set(run.frame["model"])]
