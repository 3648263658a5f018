"""What the readers of data files share: an error that knows every problem of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hetexp.errors import DataError, some


class DamagedFile(DataError):
    """A data file whose records are not what they must be.

    Args:
        path: the file.
        problems: everything that was found; the message shows the first few.
    """

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        super().__init__(f"{path}: {some(list(problems))}")
        self.problems = [f"{path}: {problem}" for problem in problems]


def is_text(value: Any) -> bool:
    """Whether a JSON value is a text that can be written again: JSON allows halves of characters (lone surrogates)."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def repeated(what: str, values: Iterable[int | str], remedy: str) -> Iterator[str]:
    """A problem for each value that occurs more than once."""
    for value, count in Counter(values).items():
        if count > 1:
            yield f"lists {what} {value!r} {'twice' if count == 2 else f'{count} times'}: {remedy}"


def short(value: Any, most: int = 60) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
