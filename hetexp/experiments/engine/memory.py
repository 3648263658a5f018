"""Batches that do not fit into memory: tried again, then halved.

A batch is first tried once more with caches emptied (another program may have held the memory for a moment), then in
halves. Nothing is remembered from one batch to the next, so what is computed depends on the batch and the machine
alone, and a rerun that starts in the middle computes the same. Items of a batch do not interact: a halved batch gives
the numbers of the whole one up to floating-point noise.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from hetexp.errors import HetexpError

log = logging.getLogger("hetexp")

Item = TypeVar("Item")
Result = TypeVar("Result")

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


class MemoryFullError(HetexpError):
    """A single item does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


class OutOfMemoryRetry:
    """Computes batches, halving those that do not fit; warns once.

    Args:
        advice: what else a user can change when a single item does not fit.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.halved = 0  # batches that did not fit whole

    def __call__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        describe: Callable[[Item], str],
    ) -> list[Result]:
        """compute(items), one result per item.

        Raises:
            MemoryFullError: naming the item that does not fit even alone.
        """
        return self._attempt(compute, items, describe, attempts=2) if items else []

    def _attempt(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        describe: Callable[[Item], str],
        attempts: int,
    ) -> list[Result]:
        for attempt in range(attempts):
            try:
                return list(compute(items))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if attempt == attempts - 1 and len(items) == 1:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise MemoryFullError(
                        f"{describe(items[0])} does not fit into memory even alone ({reason}): {self.advice}; finished "
                        "chunks are kept, so the same command continues there"
                    ) from error
            _free()  # outside the handler, or the traceback would still hold the tensors
        if not self.halved:
            log.warning(
                "a batch of %d does not fit into memory and is halved: a smaller batch_size avoids the lost attempts",
                len(items),
            )
        self.halved += 1
        halves = items[: len(items) // 2], items[len(items) // 2 :]
        return [result for half in halves for result in self._attempt(compute, half, describe, attempts=1)]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
