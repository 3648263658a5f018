"""Stage 1 of any experiment: compute what the store lacks, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from hetexp.experiments.engine.chunks import Chunk, Item
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.session import Session


@dataclass(frozen=True)
class Attributed:
    """What stage 1 finds out about one chunk."""

    tables: Mapping[str, pd.DataFrame]  # rows on items, the same whatever the methods
    relevance: Mapping[str, Mapping[str, Tensor]]  # per method
    tensors: Mapping[str, Tensor] | None = None  # beside the tables


def compute_missing(
    session: Session,
    chunks: Sequence[Chunk[Item]],
    rows: str,
    attribute_chunk: Callable[[Chunk[Item], Sequence[MethodSpec]], Attributed],
) -> None:
    """Compute what this run's shard of the store does not hold yet.

    Args:
        rows: name of the unit with a chunk's tables.
        attribute_chunk: computes a chunk for the methods that are missing, maybe none.
    """
    store, (index, count) = session.store, session.shard
    session.chunk_names = [chunk.name for chunk in chunks]
    mine = [chunk for chunk in chunks if chunk.index % count == index]
    with session.progress as progress:
        task = progress.add_task("attribute", total=sum(len(c.items) for c in mine))
        for chunk in mine:
            missing = [s for s in session.methods if not store.has(chunk.name, s.unit, s.settings)]
            if missing or not store.has(chunk.name, rows):
                found = attribute_chunk(chunk, missing)
                if not store.exists(chunk.name, rows):
                    store.write(chunk.name, rows, tensors=found.tensors, tables=found.tables)
                for spec in missing:
                    store.write(chunk.name, spec.unit, spec.settings, tensors=found.relevance[spec.name])
            progress.advance(task, len(chunk.items))
