"""Seeded damage to JSON and to bytes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    -7.25,
    10**6,
    2**31,
    2**40,
    2**70,
    1e-9,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "x",
    "0",
    "1",
    "../x",
    "/etc/passwd",
    "a" * 5000,
    "\x00",
    "\ud800",
    "z\u00e8bre",
    [],
    [[]],
    [None],
    [1, 2],
    [1, 2, 3, 4],
    [[1, 2, 3, 4]],
    [[0, 0, 5, 0, 5, 5]],
    [[0, 0, 1e9, 0, 1e9, 1e9]],
    {},
    {"a": 1},
    {"size": [4, 4], "counts": [0, 16]},
)

Place = tuple[Any, Any]  # a list or dict, and an index or key in it


def places(tree: Any) -> list[Place]:
    """Every value of a JSON tree but its root."""
    found: list[Place] = []
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    for key in keys:
        found.append((tree, key))
        found += places(tree[key])
    return found


def by_part(rng: Random, tree: Any) -> Place:
    """A random place; shallow ones as likely as the many deep ones."""
    holder, key = tree, None
    while True:
        keys = list(range(len(holder)) if isinstance(holder, list) else holder)
        if not keys:
            return rng.choice(places(tree))
        key = rng.choice(keys)
        if not isinstance(holder[key], list | dict) or rng.random() < 0.2:
            return holder, key
        holder = holder[key]


def _replace(rng: Random, tree: Any, place: Place) -> None:
    place[0][place[1]] = copy.deepcopy(rng.choice(NASTY))


def _remove(rng: Random, tree: Any, place: Place) -> None:
    del place[0][place[1]]


def _repeat(rng: Random, tree: Any, place: Place) -> None:
    holder, key = place
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))


def _change(rng: Random, tree: Any, place: Place) -> None:
    """Change a value within its type."""
    holder, key = place
    value = holder[key]
    if isinstance(value, bool) or value is None:
        holder[key] = not value
    elif isinstance(value, int | float):
        holder[key] = rng.choice(
            (-value, value + 1, value - 1, 10 * value, value / 2, value + rng.gauss(0, 20), str(value))
        )
    elif isinstance(value, str) and value:
        at = rng.randrange(len(value))
        holder[key] = (
            value[:at] + rng.choice(("", "~", "\u00e9", value[at] * 2, chr(rng.randrange(32, 127)))) + value[at + 1 :]
        )
    elif isinstance(value, list):
        rng.shuffle(value)


def _exchange(rng: Random, tree: Any, place: Place) -> None:
    """Swap a value with that of the same key, or another key, elsewhere."""
    holder, key = place
    same = [(h, k) for h, k in places(tree) if k == key and h is not holder and type(h) is type(holder)]
    other, at = rng.choice(same) if same and rng.random() < 0.7 else by_part(rng, tree)
    holder[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(holder[key])


_CHANGES: tuple[Callable[[Random, Any, Place], None], ...] = (
    _replace,
    _replace,
    _remove,
    _repeat,
    _change,
    _change,
    _exchange,
)


def mutated_json(rng: Random, tree: Any) -> bytes:
    """JSON of a tree after one to three changes, now and then with damaged bytes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, tree, by_part(rng, tree))
    content = json.dumps(tree).encode()
    return mutated_bytes(rng, content) if rng.random() < 0.1 else content


def mutated_bytes(rng: Random, content: bytes) -> bytes:
    """Bytes cut short, flipped, overwritten, removed, inserted or emptied."""
    data = bytearray(content)
    kind = rng.randrange(6)
    at = rng.randrange(len(data))
    if kind == 0:
        del data[at:]
    elif kind == 1:
        for _ in range(rng.choice((1, 1, 4, 50))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at : at + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 3:
        del data[at : at + rng.randrange(1, 64)]
    elif kind == 4:
        data[at:at] = rng.randbytes(rng.randrange(1, 64))
    else:  # the beginning, where formats keep sizes and types
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(min(len(data), 64))] = rng.randrange(256)
    return bytes(data)
