"""How alike the maps of two methods are, or of one method in two runs, item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hetexp.errors import ConfigError
from hetexp.evaluation.similarity import rank_correlation, relative_difference
from hetexp.experiments.engine.items import ItemRecord, ItemValues
from hetexp.experiments.engine.methods import MethodSpec
from hetexp.experiments.engine.results import Result

if TYPE_CHECKING:
    from hetexp.experiments.engine.session import Session

PANEL = "similarity"
MEASURES = {"rank_correlation": rank_correlation, "relative_difference": relative_difference}


@dataclass(frozen=True)
class ItemMaps:
    """Relevance of one item: source -> its tokens, and the image that the item belongs to."""

    image: str
    sources: Mapping[str, NDArray[np.float64]]


ReadMaps = Callable[["Session", MethodSpec], dict[str, ItemMaps]]  # by item, in the order of items


def similar_maps(session: Session, record: ItemRecord, read: ReadMaps) -> list[Result]:
    """Similarity of every pair of methods in `compare`, and of each method with itself in the run's baseline.

    Items whose maps are not finite are left out. Where a baseline explains other items (because it keeps other
    detections), nothing is compared with it.

    Raises:
        ConfigError: for a pair that is not one of two methods of the run.
    """
    results: list[Result] = []
    for one, other, of_other, name in _pairs(session):
        mine, theirs = read(session, one), read(of_other, other)
        if list(mine) == list(theirs):
            results += [record.mean(one, found) for found in _compared(mine, theirs, f"{PANEL}/{name}")]
    return results


def _pairs(session: Session) -> Iterator[tuple[MethodSpec, MethodSpec, Session, str]]:
    by_name = {spec.name: spec for spec in session.methods}
    for pair in session.cfg.compare or ():
        if len(pair) != 2 or not set(pair) <= set(by_name):
            raise ConfigError(f"compare holds {list(pair)}: name two methods of the run, {', '.join(by_name)}")
        one, other = (by_name[str(name)] for name in pair)
        yield one, other, session, other.name
    if session.baseline is not None and len(session.baseline.methods) == len(session.methods):
        for one, other in zip(session.methods, session.baseline.methods, strict=True):
            yield one, other, session.baseline, "baseline"


def _compared(mine: Mapping[str, ItemMaps], theirs: Mapping[str, ItemMaps], panel: str) -> Iterator[ItemValues]:
    rows: dict[str, list[float]] = {}
    items = [
        item
        for item, maps in mine.items()
        if all(np.isfinite(x).all() for found in (maps, theirs[item]) for x in found.sources.values())
    ]
    for item in items:
        for source, relevance in mine[item].sources.items():
            for name, measure in MEASURES.items():
                rows.setdefault(f"{source}_{name}", []).append(measure(relevance, theirs[item].sources[source]))
    for metric, values in rows.items():
        yield ItemValues(panel, metric, np.array(values), items, [mine[item].image for item in items])
