"""Feed the program seeded damage and count what becomes of it; the table goes to outputs/reference/fuzz.md.

    python tests/faults/fuzz.py                        # as in outputs/reference
    python tests/faults/fuzz.py --only images --count 50 --seed 7 --out fuzz.md

Damaged input may be refused with an error that a user can fix, used with a warning, or change nothing. It may give
another number without a warning only where a second computation on the damaged input, by other code, says that this is
its number (a moved vertex makes another polygon, not a damaged file). Anything else is a fault: the command lists it
and exits with 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, Protocol

import fuzz_annotations
import fuzz_configs
import fuzz_images
import fuzz_questions
import torch

from hetexp.errors import HetexpError

ROOT = Path(__file__).parents[2]


class Outcome(Enum):
    """What became of one damaged input."""

    refused = "refused with an error"
    warned = "used with a warning"
    same = "same number"
    confirmed = "another number, confirmed"
    silent = "ANOTHER NUMBER, NO WARNING"
    traceback = "TRACEBACK"


class Subject(Protocol):
    """One kind of input."""

    def damage(self, rng: Random) -> bytes:
        """Write a damaged input where the program reads it, and return its bytes."""
        ...

    def number(self) -> Any:
        """What the program says, to be compared with ==."""
        ...

    def confirmed(self, content: bytes, number: Any) -> bool:
        """Whether `number` is right for the damaged input, by other code."""
        ...


# A kind of input: its subject, made in an empty folder, and how many damaged ones are tried.
KINDS: dict[str, tuple[Callable[[Path], Subject], int]] = {
    "annotation files": (fuzz_annotations.Annotations, 2000),
    "question files": (fuzz_questions.Questions, 500),
    "images": (fuzz_images.Images, 500),
    "configurations": (fuzz_configs.Configs, 300),
}


@dataclass(frozen=True)
class Case:
    """One damaged input."""

    seed: str
    outcome: Outcome
    said: str


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def warnings_of() -> Iterator[list[str]]:
    """The warnings that the program logs meanwhile."""
    handler, logger = _Warnings(), logging.getLogger("hetexp")
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def clean_number(subject: Subject) -> Any:
    """The number of the undamaged input, which must come without a warning."""
    with warnings_of() as said:
        clean = subject.number()
    if said:
        raise SystemExit(f"the undamaged input is warned of: {said[0]}")
    return clean


def tried(subject: Subject, clean: Any, seed: str) -> Case:
    """Damage the input and see what the program says."""
    content = subject.damage(Random(seed))
    with warnings_of() as said:
        try:
            number = subject.number()
        except HetexpError as error:
            return Case(seed, Outcome.refused, str(error))
        except Exception as error:  # whatever it is, a user would see a traceback
            return Case(seed, Outcome.traceback, f"{type(error).__name__}: {error}")
    if said:
        return Case(seed, Outcome.warned, said[0])
    if number == clean:
        return Case(seed, Outcome.same, "")
    right = subject.confirmed(content, number)
    return Case(seed, Outcome.confirmed if right else Outcome.silent, f"{number} instead of {clean}")


def cases(kind: str, count: int, seed: int) -> Iterator[Case]:
    """The outcomes of `count` damaged inputs of one kind."""
    make, _ = KINDS[kind]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        subject = make(Path(folder))
        clean = clean_number(subject)
        for i in range(count):
            yield tried(subject, clean, f"{kind} {seed} {i}")


def main() -> None:
    """Try every kind and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*KINDS], help="one kind alone")
    parser.add_argument("--count", type=int, help="how many of each kind, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "reference" / "fuzz.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [["input", "tried", *(outcome.value for outcome in Outcome)]]
    faults: list[Case] = []
    for kind in [args.only] if args.only else KINDS:
        found = list(cases(kind, args.count or KINDS[kind][1], args.seed))
        counts = Counter(case.outcome for case in found)
        rows.append([kind, str(len(found)), *(str(counts[outcome]) for outcome in Outcome)])
        faults += [case for case in found if case.outcome in (Outcome.silent, Outcome.traceback)]
        print(" | ".join(rows[-1]), file=sys.stderr)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    lines += ["", *(f"- {case.seed}: {case.outcome.value}: {case.said[:300]}" for case in faults)]
    args.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
