"""What is measured of every method over all explained tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetexp.errors import ConfigError
from hetexp.evaluation.localisation import auprc, word_auroc, word_rank
from hetexp.evaluation.perturbation import FRACTIONS
from hetexp.evaluation.statistics import trapezoid_auc
from hetexp.experiments.text.perturb import ORDERS
from hetexp.experiments.vqa.metrics import Measured

DECIDING = "deciding_tokens"
PERTURBATION = "text_perturbation"
MEASURES = ("AUROC", "AUPRC", "rank")


@dataclass(frozen=True)
class Outcome:
    """Everything one method's stored chunks say, over all explained tokens.

    Attributes:
        tokens: a row per explained token, see `attribution.COLUMNS`, its lists as lists.
        relevance: of the source tokens of each [T], special ones included.
        probabilities: of the token without some source tokens [tokens, orders, fractions]; NaN where relevance had no
            order.
    """

    tokens: pd.DataFrame
    relevance: list[NDArray[np.float64]]
    probabilities: NDArray[np.float64]


def deciding(outcome: Outcome) -> Iterator[Measured]:
    """Whether relevance ranks the source words that decide a token above the others, over all and by role.

    Tokens of which that is not known, or that every word decides, take no part; relevance that is not finite counts as
    none.
    """
    rows: list[dict[str, float]] = []
    places: list[int] = []
    for i, (relevance, words, known) in enumerate(
        zip(outcome.relevance, outcome.tokens["words"], outcome.tokens["deciding"], strict=True)
    ):
        if not 0 < len(known) < len(words):
            continue
        own = relevance[words] if np.isfinite(relevance).all() else np.zeros(len(words))
        framed = np.pad(own, 1)  # the measures of words expect a special token at either end
        at = [words.index(token) + 1 for token in known]
        auroc, rank = word_auroc(framed, at), word_rank(framed, at)
        assert auroc is not None
        assert rank is not None
        inside = np.isin(words, known).astype(np.float64)
        rows.append({"AUROC": auroc, "AUPRC": auprc(own, inside), "rank": rank})
        places.append(i)
    frame = pd.DataFrame(rows, columns=list(MEASURES), index=pd.Index(places, dtype=np.int64))
    roles = outcome.tokens["role"].iloc[places].to_numpy()
    parts = {DECIDING: frame} | {f"{DECIDING}/{role}": part for role, part in frame.groupby(roles) if role}
    for panel, part in parts.items():
        if len(part):
            for measure in MEASURES:
                yield Measured(panel, measure, part[measure].to_numpy(float), part.index.to_numpy(np.int64))


def perturbation(outcome: Outcome) -> Iterator[Measured]:
    """Probability of the explained token under removal of source tokens, and the area under its curve."""
    kept = np.flatnonzero(np.isfinite(outcome.probabilities).all(axis=(1, 2)))
    found = outcome.probabilities[kept]
    for p, order in enumerate(ORDERS):
        yield Measured(PERTURBATION, order, trapezoid_auc(FRACTIONS, found[:, p]), kept)
        for i, fraction in enumerate(FRACTIONS):
            yield Measured(PERTURBATION, f"{order}@{fraction:g}", found[:, p, i], kept)


# Name, as `metrics=[...]` lists it -> function; all are computed unless `metrics` says which.
METRICS: dict[str, Callable[[Outcome], Iterator[Measured]]] = {DECIDING: deciding, PERTURBATION: perturbation}


def get_metric(name: str) -> Callable[[Outcome], Iterator[Measured]]:
    """The metric of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}. Available for models that write text: {', '.join(METRICS)}")
    return METRICS[name]


def oracle(outcome: Outcome) -> list[NDArray[np.float64]]:
    """Relevance that knows what decides: 1 on the deciding source tokens, 0 elsewhere."""
    out = []
    for relevance, known in zip(outcome.relevance, outcome.tokens["deciding"], strict=True):
        own = np.zeros(len(relevance))
        own[known] = 1
        out.append(own)
    return out
