"""Ctrl-C and SIGTERM end a command with one line and the exit code that shells expect; nothing that is stored is lost.

What a command has done so far is told by the place that knows: it adds a note to the exception on its way.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from types import FrameType

log = logging.getLogger("hetexp")

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, as sent by `kill`, schedulers and containers: it ends a run the way Ctrl-C does."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Say in one line what is kept when the command inside is stopped, and exit with 130 or 143."""
    with _handlers():
        try:
            yield
        except KeyboardInterrupt as stop:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # this is about to end: another Ctrl-C would only make noise
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _say(stop)
            sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


def silent_worker() -> None:
    """In a process of its own: Ctrl-C reaches every process of a terminal, and one of them speaks for all."""
    if current_process().name != "MainProcess":
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


_begun: dict[str, str] = {}  # option that leads back to what runs in other processes -> what that is


def begun_elsewhere(option: str, what: str) -> None:
    """Other processes work for this command, which cannot know how far they are.

    Args:
        option: which makes the same command continue their work, such as "hydra.sweep.dir=FOLDER"; "" for none.
        what: where their work is, as a sentence.
    """
    _begun[option] = what


@contextmanager
def not_reaching_children() -> Iterator[None]:
    """Processes that are started inside do not see Ctrl-C at all; whoever started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handlers() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(stop: KeyboardInterrupt) -> None:
    kept = [*getattr(stop, "__notes__", ()), *_begun.values()]
    text = "stopped before anything was stored: start the same command again"
    if kept:
        options = "".join(f" with {option}" for option in _begun if option)
        text = f"stopped: {'; '.join(kept)}; the same command{options} continues there"
    if log.hasHandlers():
        log.error("%s", text)
    else:  # before Hydra has set logging up
        print(text, file=sys.stderr)
