"""How many CPU threads a run takes: its share of the cores that it may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # "<microseconds> <period>" or "max <period>" of a container


def available_cores(limit: Path = CGROUP_LIMIT) -> int:
    """Cores that this process may use: its affinity, and a container's limit, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        return affinity
    return affinity if quota == "max" else max(1, min(affinity, math.ceil(int(quota) / int(period))))


def share_of_cores(processes: int, cores: int | None = None) -> int:
    """Threads of each of several processes side by side, at least one."""
    return max(1, (available_cores() if cores is None else cores) // max(1, processes))
