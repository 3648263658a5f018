"""Sentences with the text they were written from, and the source words that are known to decide their words.

An item of the JSON file is {id, source, target, decided}. `decided` lists words of the target, each with what decides
it: {"span": [start, end], "deciding": [[start, end], ...], "role": "answer"}; spans are characters, `role` is optional.
An item without `decided` has every token of its target explained, without ground truth. `group` names what the item
shares with others (an image, a document) and resamples count; `kind` sorts items into parts. Other keys are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetexp.data.problems import DamagedFile, is_text, read_json, repeated, short
from hetexp.errors import DataError
from hetexp.files import file_hash

Span = tuple[int, int]

REQUIRED = ("id", "source", "target")
OPTIONAL = ("decided", "group", "kind")


@dataclass(frozen=True)
class Decided:
    """A word of a target and the words of its source that decide it, all as character spans [start, end)."""

    span: Span
    deciding: tuple[Span, ...]
    role: str = ""


@dataclass(frozen=True)
class Sentence:
    """A source text and what is to be written from it.

    Attributes:
        id: its name.
        source: what the encoder reads.
        target: what the decoder writes.
        decided: the words of the target to explain; None explains every token.
        group: what resamples count as one.
        kind: which part of the data it belongs to.
    """

    id: str
    source: str
    target: str
    decided: tuple[Decided, ...] | None
    group: str
    kind: str = ""

    def record(self) -> dict[str, Any]:
        """Everything that it says, JSON-serialisable."""
        decided = self.decided and [[d.span, d.deciding, d.role] for d in self.decided]
        return {**vars(self), "decided": decided}


@dataclass(frozen=True)
class SentenceData:
    """Sentences of an experiment, in its order; `digest` is the SHA-256 of their file, as hex."""

    sentences: list[Sentence]
    digest: str


def open_sentences(data: Mapping[str, Any], *, limit: int | None, seed: int) -> SentenceData:
    """Read the sentences of a `data` configuration.

    Args:
        data: `root` and, relative to it, `sentences`, a JSON file.
        limit: how many to take from the start; None for all.
        seed: unused, sentences are taken in their order.

    Raises:
        DataError: if the file is missing or no valid JSON.
        DamagedFile: naming every item that cannot be used.
    """
    if not data.get("sentences"):
        raise DataError("data.sentences is not set: name the JSON file with the sentences, below data.root")
    path = Path(data["root"], data["sentences"])
    return SentenceData(read_sentences(path)[:limit], file_hash(path))


def read_sentences(path: Path) -> list[Sentence]:
    """All sentences of a file; see `open_sentences` for errors."""
    items = read_json(path, list)
    problems = [f"item {number}{said}" for number, item in enumerate(items) if (said := _problem(item)) is not None]
    if not problems:
        problems = list(repeated("the id", [str(item["id"]) for item in items], "give every item its own"))
    if problems:
        raise DamagedFile(path, problems)
    if not items:
        raise DataError(f"{path}: no sentences, at least one is needed")
    return [_sentence(item) for item in items]


def _sentence(item: Mapping[str, Any]) -> Sentence:
    decided = None
    if item.get("decided") is not None:
        decided = tuple(
            Decided(_span(d["span"]), tuple(map(_span, d["deciding"])), d.get("role", "")) for d in item["decided"]
        )
    name = str(item["id"])
    return Sentence(
        name, item["source"], item["target"], decided, str(item.get("group", name)), str(item.get("kind", ""))
    )


def _span(value: Sequence[int]) -> Span:
    return value[0], value[1]


def _problem(item: Any) -> str | None:
    if not isinstance(item, dict) or any(key not in item for key in REQUIRED):
        return f" lacks one of {', '.join(REQUIRED)}"
    unknown = sorted(set(item) - {*REQUIRED, *OPTIONAL})
    if unknown:
        return f" has the unknown key {short(unknown[0])}: known are {', '.join((*REQUIRED, *OPTIONAL))}"
    for key in ("source", "target"):
        if not is_text(item[key]) or not item[key].strip():
            return f" (id {short(item['id'])}) has the {key} {short(item[key])}, expected a text with words"
    for key in ("id", "group", "kind"):
        if key in item and type(item[key]) is not int and not is_text(item[key]):
            return f" has the {key} {short(item[key])}, expected a number or a text"
    return next((f" (id {short(item['id'])}) has {said}" for said in _bad_decided(item)), None)


def _bad_decided(item: Mapping[str, Any]) -> Iterator[str]:
    decided = item.get("decided")
    if decided is not None and not isinstance(decided, list):
        yield f"decided {short(decided)}, expected a list"
        return
    for entry in decided or ():
        keys = set(entry) if isinstance(entry, dict) else set()
        if not {"span", "deciding"} <= keys <= {"span", "deciding", "role"} or not isinstance(entry["deciding"], list):
            yield f"the entry {short(entry)} in decided, expected span, deciding (a list) and maybe role"
            return
        if not is_text(entry.get("role", "")) or "/" in entry.get("role", ""):
            yield f"the role {short(entry['role'])}, expected a text without '/'"
        for text, spans in (("target", [entry["span"]]), ("source", entry["deciding"])):
            for span in spans:
                whole = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
                if not whole or not 0 <= span[0] < span[1] <= len(item[text]):
                    size = len(item[text])
                    yield f"the span {short(span)}, expected [start, end] within its {text}'s {size} characters"
