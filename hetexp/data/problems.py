"""What the readers of data files share: an error that knows every problem of a file."""

from __future__ import annotations

import json
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


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: if the file is missing, unreadable, no JSON, or holds something else than a `kind`.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: check the path, or download the data") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): it may be cut short, fetch it again") from error
    if not isinstance(content, kind):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content
