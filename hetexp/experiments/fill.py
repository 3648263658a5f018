"""Stage 1 of any model: fill the store chunk by chunk with rows and the relevance of every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from hetexp.experiments.chunks import Chunk, Item, owned, progress_bar
from hetexp.experiments.methods import MethodSpec
from hetexp.experiments.session import Session
from hetexp.experiments.store import Store


@dataclass(frozen=True)
class Attributed:
    """What stage 1 finds out about one chunk."""

    tables: Mapping[str, pd.DataFrame]  # rows on items, the same whatever the methods
    relevance: Mapping[str, Mapping[str, Tensor]]  # per method
    tensors: Mapping[str, Tensor] | None = None  # beside the tables


def fill(
    session: Session,
    chunks: Sequence[Chunk[Item]],
    store: Store,
    rows: str,
    attribute_chunk: Callable[[Chunk[Item], Sequence[MethodSpec]], Attributed],
) -> None:
    """Compute what this run's shard of the store does not hold yet.

    Args:
        rows: name of the unit with a chunk's tables.
        attribute_chunk: computes a chunk for the methods that are missing, maybe none.
    """
    mine = owned(chunks, session.shard)
    with progress_bar(session.cfg.progress) as progress:
        task = progress.add_task("attribute", total=sum(len(c.items) for c in mine))
        for chunk in mine:
            units = {s.name: store.unit(chunk.name, s.name, s.settings) for s in session.methods}
            missing = [s for s in session.methods if not store.has(units[s.name])]
            rows_unit = store.unit(chunk.name, rows)
            if missing or not store.has(rows_unit):
                found = attribute_chunk(chunk, missing)
                if not rows_unit.exists():
                    store.write(rows_unit, found.tensors, found.tables)
                for spec in missing:
                    store.write(units[spec.name], found.relevance[spec.name])
            progress.advance(task, len(chunk.items))
