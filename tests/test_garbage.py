"""Searches for cyclic garbage are left out while modules load, and come back afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hetexp.garbage import import_for_good, uncollected, unsearched_end


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_searches_come_back_even_after_an_error() -> None:
    inside = []
    with pytest.raises(ZeroDivisionError), uncollected():
        inside.append(gc.isenabled() or 1 / 0)
    assert not inside
    assert gc.isenabled()


def test_who_has_turned_them_off_keeps_them_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_what_a_first_import_makes_is_left_out_of_later_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    gc.unfreeze()
    assert import_for_good("colorsys:rgb_to_hsv").__module__ == "colorsys"
    assert gc.get_freeze_count() > 1000
    assert gc.isenabled()


def test_what_is_there_already_may_still_become_garbage() -> None:
    """Jobs of a sweep follow each other in one process: what one leaves behind must be found."""
    import colorsys  # noqa: F401

    gc.unfreeze()
    before = gc.get_freeze_count()
    import_for_good("colorsys:rgb_to_hsv")
    assert gc.get_freeze_count() == before


def test_nothing_is_searched_when_a_command_ends() -> None:
    gc.unfreeze()
    with pytest.raises(SystemExit), unsearched_end():
        sys.exit(1)
    assert gc.get_freeze_count() > 1000


def test_a_command_ends_so() -> None:
    run = "sys.argv[1:] = ['--version']; main(); print(gc.get_freeze_count())"
    code = f"import sys, gc; from hetexp.cli import main; {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) > 1000
