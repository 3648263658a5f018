"""What was computed for the users of the page, kept in memory up to a limit of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any

from torch import Tensor

from hetexp.models.gradients import GRADIENT_BUDGET
from hetexp.models.trace import AttentionTrace

Key = tuple[Hashable, ...]


class Kept:
    """Values by key; the least recently used go when all together exceed the limit. Safe to use from several threads.

    Args:
        byte_limit: of all values together; the newest value stays even if it is larger.
    """

    def __init__(self, byte_limit: int) -> None:
        self.byte_limit = byte_limit
        self._values: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def held(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def get(self, key: Key) -> Any:
        """The value, which is now the most recently used; None if it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Key, value: Any) -> None:
        """Keep a value, and let go of the least recently used others until the limit holds."""
        size = bytes_of(value)
        with self._lock:
            self._drop(key)
            self._values[key] = value, size
            self._bytes += size
            while self._bytes > self.byte_limit and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def forget(self, start: Key) -> None:
        """Let go of every value whose key begins so."""
        with self._lock:
            for key in [k for k in self._values if k[: len(start)] == start]:
                self._drop(key)

    def _drop(self, key: Key) -> None:
        _, size = self._values.pop(key, (None, 0))
        self._bytes -= size


def bytes_of(value: Any) -> int:
    """Memory behind the tensors and byte strings of a value, those of its fields and entries included.

    Views count as the storage they keep alive, and storage that several tensors share counts once. A trace whose
    gradients are found later keeps a graph that cannot be measured: it counts as the gradients it stands for.
    """
    storages: dict[int, int] = {}
    return _walk(value, storages) + sum(storages.values())


def _walk(value: Any, storages: dict[int, int]) -> int:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return 0
    if isinstance(value, bytes):
        return len(value)
    if is_dataclass(value) and not isinstance(value, type):
        deferred = isinstance(value, AttentionTrace) and value.deferred is not None
        return GRADIENT_BUDGET * deferred + sum(_walk(getattr(value, f.name), storages) for f in fields(value))
    if isinstance(value, Mapping):
        return sum(_walk(v, storages) for v in value.values())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return sum(_walk(v, storages) for v in value)
    return 0
