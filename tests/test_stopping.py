"""Ctrl-C and SIGTERM: one line, the exit code of shells, and nothing lost."""

from __future__ import annotations

import os
import signal
import time

import pytest

from hetexp.stopping import begun_elsewhere, stoppable

CODE = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", CODE)
def test_one_line_and_an_exit_code(number: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except KeyboardInterrupt as stop:
            stop.add_note("3 of 4 chunks are in the store")
            raise

    with pytest.raises(SystemExit) as left, stoppable():
        work()
    assert left.value.code == CODE[number]
    assert caplog.messages == ["stopped: 3 of 4 chunks are in the store; the same command continues there"]


def test_before_anything_is_stored(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit), stoppable():
        raise KeyboardInterrupt
    assert caplog.messages == ["stopped before anything was stored: start the same command again"]


def test_work_elsewhere_is_named_with_the_option_that_leads_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetexp.stopping._begun", {})
    begun_elsewhere("hydra.sweep.dir=here", "shards keep what they have computed in here")
    with pytest.raises(SystemExit), stoppable():
        raise KeyboardInterrupt
    assert caplog.messages[0].endswith("in here; the same command with hydra.sweep.dir=here continues there")


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in CODE]
    with stoppable():
        assert [signal.getsignal(number) for number in CODE] != before
    assert [signal.getsignal(number) for number in CODE] == before
