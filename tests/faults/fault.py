"""What every fault is: something that goes wrong in a toy run, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toy_run import Toy


@dataclass
class Row:
    """What a fault led to."""

    happened: str
    code: int
    equal: str


Fault = Callable[[Toy, str], Row]


def refused(*overrides: str, code: str | None = None) -> Fault:
    """A run that must end with an error; the same folder then takes a right run."""

    def fault(toy: Toy, name: str) -> Row:
        first = toy.run(name, *overrides, code=code)
        again = toy.run(name)
        return Row(first.last, first.code, toy.equal(again))

    return fault


def survived(*overrides: str, code: str | None = None) -> Fault:
    """A run that must go on to the end with equal results."""

    def fault(toy: Toy, name: str) -> Row:
        first = toy.run(name, *overrides, code=code)
        return Row(first.last, first.code, toy.equal(first))

    return fault


def data_fault(relative: str, change: Callable[[bytes], bytes | None]) -> Fault:
    """A file of the data or the checkpoint is damaged for a run, then restored."""

    def fault(toy: Toy, name: str) -> Row:
        path = toy.folder / relative
        sound = path.read_bytes()
        damaged = change(sound)
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        first = toy.run(name)
        path.write_bytes(sound)
        (toy.folder / name / "run" / "results.csv").unlink(missing_ok=True)
        again = toy.run(name)
        return Row(first.last, first.code, toy.equal(again))

    return fault
