"""Results of a whole batch copied from the device at once, so that it is waited for once and not for every tensor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def on_host(items: Sequence[Mapping[Key, Tensor]]) -> list[dict[Key, Tensor]]:
    """The same tensors on the CPU, from one copy per type of number.

    Args:
        items: tensors of any shapes by name, all on one device; a mapping for each item of a batch.
    """
    tensors = [x.detach() for item in items for x in item.values()]
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype]
        together = torch.cat([tensors[i].flatten() for i in places]).cpu()
        parts = together.split([tensors[i].numel() for i in places])
        found |= {i: part.view(tensors[i].shape) for i, part in zip(places, parts, strict=True)}
    copies = (found[i] for i in range(len(tensors)))
    return [{key: next(copies) for key in item} for item in items]
