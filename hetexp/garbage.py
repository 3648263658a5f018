"""When Python looks for cyclic garbage: not while modules load.

Modules are millions of objects that stay. They are made in one go, which sets off several full searches, each through
all of them, and one more when the process ends: a quarter of the time that a short command takes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hetexp.paths import import_from


@contextmanager
def uncollected() -> Iterator[None]:
    """No search inside."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def import_for_good(reference: str) -> Any:
    """What "module:name" refers to; what its first import makes is left out of every later search.

    With it goes all else that is there by then, so this is for the start of a command, before anything is computed.
    """
    if reference.partition(":")[0] in sys.modules:
        return import_from(reference)
    with uncollected():
        found = import_from(reference)
    gc.freeze()
    return found


@contextmanager
def unsearched_end() -> Iterator[None]:
    """For a process that ends after it: its memory goes as a whole, so nothing is searched for then."""
    try:
        yield
    finally:
        gc.freeze()
