"""Chunks of items: the unit of storing, resuming and sharding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar, cast

from hetexp.errors import DataError
from hetexp.files import content_hash

log = logging.getLogger("hetexp")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Chunk(Generic[Item]):
    """Consecutive items with a name that hashes their content."""

    index: int
    items: tuple[Item, ...]
    name: str


def make_chunks(items: Sequence[Item], size: int, digest: Callable[[Item], str]) -> list[Chunk[Item]]:
    """Split items into chunks of `size`; `digest` identifies an item's content."""
    chunks = []
    for index, start in enumerate(range(0, len(items), size)):
        part = tuple(items[start : start + size])
        name = f"{index:06d}-{content_hash([digest(i) for i in part])[:16]}"
        chunks.append(Chunk(index, part, name))
    return chunks


def batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive groups of at most `size` items."""
    following = iter(items)
    while batch := list(islice(following, size)):
        yield batch


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """The items in order, each made by a thread of its own while the one before it is worked on."""
    following = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(next, following, end)
        while (item := made.result()) is not end:
            made = pool.submit(next, following, end)
            yield cast(Item, item)


def report_skips(kind: str, used: int, reasons: Sequence[str]) -> None:
    """Say what of the store was skipped, when it was computed or now.

    Raises:
        DataError: if nothing is left to evaluate.
    """
    if not reasons:
        return
    if used == 0:
        raise DataError(f"all {len(reasons)} {kind} were skipped, nothing is left to evaluate; the first: {reasons[0]}")
    log.warning("%d of %d %s are skipped; the first: %s", len(reasons), used + len(reasons), kind, reasons[0])
