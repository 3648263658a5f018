"""Work in several processes, one of which is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from hetexp.experiments.engine import processes
from hetexp.experiments.engine.processes import WorkerLostError, in_processes


class _KillingFirst(dict[int, Any]):
    """A pool's processes: the first is killed while the second starts, before the pool knows the second."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def __setitem__(self, pid: int, process: Any) -> None:
        if len(self) == 1:
            os.kill(next(iter(self)), signal.SIGKILL)
            while not self.pool._broken:
                time.sleep(0.01)
            time.sleep(0.2)  # the pool ends the processes that it knows
        super().__setitem__(pid, process)


class _Pool(ProcessPoolExecutor):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processes: Any = _KillingFirst(self)


def test_results_come_in_order() -> None:
    assert list(in_processes(abs, [-3, 2, -1], 2, abs, [1])) == [3, 2, 1]


def test_a_process_lost_while_another_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ProcessPoolExecutor", _Pool)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            list(in_processes(abs, [-3, 2, -1], 2, abs, [1]))
        except WorkerLostError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive(), "it waits for a process that nobody ends"
    assert "one of 2 worker processes was killed" in str(raised[0])
    assert "take workers=1" in str(raised[0])
