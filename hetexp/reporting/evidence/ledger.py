"""The claims as data: `claims.yaml` read, checked and spread out to one claim for every pair and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from hetexp.errors import ConfigError
from hetexp.reporting.evidence.measurements import Resampling
from hetexp.reporting.evidence.verdicts import RELATIONS, Relation
from hetexp.reporting.names import method_name

CLAIMS = Path(__file__).with_name("claims.yaml")

_NEEDED = ("id", "section", "claim")
_KNOWN = {
    *_NEEDED, "statistic", "data", "relation", "margin", "against", "unit", "family", "arguments", "order", "metrics",
    "awaits",
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """An order of methods, best first, e.g. A ≥ B > C."""

    methods: tuple[str, ...]
    relations: tuple[Relation, ...]

    @property
    def text(self) -> str:
        """With printed names."""
        parts = [method_name(self.methods[0])]
        for relation, method in zip(self.relations, self.methods[1:], strict=True):
            parts += [relation, method_name(method)]
        return " ".join(parts)

    def pairs(self) -> list[tuple[str, Relation, str, bool]]:
        """All pairs: (better, relation, worse, whether they are neighbours)."""
        out = []
        for i, j in combinations(range(len(self.methods)), 2):
            relation: Relation = ">" if ">" in self.relations[i:j] else "≥"
            out.append((self.methods[i], relation, self.methods[j], j == i + 1))
        return out


@dataclass(frozen=True)
class Claim:
    """One statement that a number decides.

    Attributes:
        id: unique.
        section: of the paper.
        text: the claim in this project's words.
        statistic: name in `statistics.STATISTICS`; "" for a claim whose statistic is not built.
        data: experiments whose runs it is computed from.
        relation: of the statistic to `against`, as claimed.
        margin: what counts as no difference, in the statistic's unit.
        against: the number it is compared with.
        unit: of the statistic.
        family: claims that p-values are adjusted together with.
        arguments: of the statistic.
        awaits: what is missing to decide it, for a claim without a statistic.
        order: name of the order that it is a pair of.
        neighbours: whether the pair stands next to each other in it.
    """

    id: str
    section: str
    text: str
    statistic: str = ""
    data: tuple[str, ...] = ()
    relation: Relation = ">"
    margin: float = 0.0
    against: float = 0.0
    unit: str = ""
    family: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    awaits: str = ""
    order: str = ""
    neighbours: bool = False

    @property
    def pair(self) -> str:
        """Two methods and their relation, for a claim about two methods."""
        one, other = self.arguments["one"], self.arguments["other"]
        return f"{method_name(one)} {self.relation} {method_name(other)}"

    @property
    def neighbours_in_ap(self) -> bool:
        """Whether it is a pair of neighbours of an order, in AP; these stand for the order where it is printed."""
        return self.neighbours and bool(self.arguments["metric"] == "AP")


@dataclass(frozen=True)
class Ledger:
    """All claims.

    Attributes:
        claims: one for each number that decides.
        orders: the orders of methods that pairs come from, by the name of their entry.
        resampling: of images.
        title: what they are.
    """

    claims: tuple[Claim, ...]
    orders: Mapping[str, Order]
    resampling: Resampling
    title: str = "The paper's claims"

    def of_order(self, name: str) -> list[Claim]:
        """The pairs of an order.

        Raises:
            ConfigError: for an unknown order; the message lists the known ones.
        """
        if name not in self.orders:
            raise ConfigError(f"the ledger has no order {name!r}: it has {', '.join(self.orders)}")
        return [claim for claim in self.claims if claim.order == name]


@cache
def read_ledger(path: Path = CLAIMS) -> Ledger:
    """Read a file of claims.

    Raises:
        ConfigError: for a file that cannot be read, and an entry that is not sound; the message names it.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        entries, resampling = content["claims"], Resampling(int(content["resamples"]), int(content["seed"]))
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no file of claims ({error}): it holds resamples, seed and claims") from error
    orders: dict[str, Order] = {}
    claims: list[Claim] = []
    for entry in entries:
        _check(entry, path)
        if "order" in entry:
            orders[entry["id"]] = _order(entry, path)
            claims += _pairs(entry, orders[entry["id"]])
        else:
            claims.append(_single(entry))
    ids = [claim.id for claim in claims]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ConfigError(f"{path} has two claims {twice[0]!r}: give each an id of its own")
    return Ledger(tuple(claims), orders, resampling)


def _check(entry: Any, path: Path) -> None:
    if not isinstance(entry, dict) or any(not entry.get(key) for key in _NEEDED):
        raise ConfigError(f"{path}: every claim needs {', '.join(_NEEDED)}; this has not: {str(entry)[:120]}")
    where = f"{path}: claim {entry['id']!r}"
    unknown = sorted(set(entry) - _KNOWN)
    if unknown:
        raise ConfigError(f"{where} has unknown key {', '.join(unknown)}: known are {', '.join(sorted(_KNOWN))}")
    if ("statistic" in entry) == ("awaits" in entry):
        raise ConfigError(f"{where} needs a statistic, or awaits (what is missing to decide it), and not both")
    if "statistic" in entry and not {"data", "margin", "unit"} <= set(entry):
        raise ConfigError(f"{where} has a statistic and needs data, margin and unit with it")
    if entry.get("relation", ">") not in RELATIONS:
        raise ConfigError(f"{where} has relation {entry['relation']!r}: choose among {', '.join(RELATIONS)}")


def _order(entry: Mapping[str, Any], path: Path) -> Order:
    given: Sequence[str] = entry["order"]
    methods, relations = tuple(given[::2]), tuple(given[1::2])
    if len(given) < 3 or len(given) % 2 == 0 or not set(relations) <= {">", "≥"}:
        raise ConfigError(
            f"{path}: claim {entry['id']!r} has order {list(given)}, expected methods with > or ≥ between them, best "
            "first, e.g. [gae, '>', odam]"
        )
    return Order(methods, relations)  # type: ignore[arg-type]


def _pairs(entry: Mapping[str, Any], order: Order) -> list[Claim]:
    base = _single({key: value for key, value in entry.items() if key not in ("order", "metrics")})
    out = []
    for metric in entry["metrics"]:
        for better, relation, worse, neighbours in order.pairs():
            out.append(
                Claim(
                    id=f"{base.id}/{metric}/{better}-{worse}",
                    section=base.section,
                    text=f"{base.text}, {metric}: {method_name(better)} {relation} {method_name(worse)}",
                    statistic=base.statistic,
                    data=base.data,
                    relation=relation,
                    margin=base.margin,
                    unit=base.unit,
                    family=base.family,
                    arguments={**base.arguments, "metric": metric, "one": better, "other": worse},
                    order=base.id,
                    neighbours=neighbours,
                )
            )
    return out


def _single(entry: Mapping[str, Any]) -> Claim:
    data = entry.get("data", ())
    return Claim(
        id=str(entry["id"]),
        section=str(entry["section"]),
        text=str(entry["claim"]),
        statistic=str(entry.get("statistic", "")),
        data=(data,) if isinstance(data, str) else tuple(data),
        relation=entry.get("relation", ">"),
        margin=float(entry.get("margin", 0)),
        against=float(entry.get("against", 0)),
        unit=str(entry.get("unit", "")),
        family=str(entry.get("family", entry["id"])),
        arguments=dict(entry.get("arguments", {})),
        awaits=str(entry.get("awaits", "")),
    )
