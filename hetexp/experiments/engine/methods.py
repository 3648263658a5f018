"""Which methods a run compares: names and parameters from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hetexp.attribution.method import Method
from hetexp.attribution.registry import METHODS, MethodRecord, get_method, parse_name, variant_of
from hetexp.errors import ConfigError
from hetexp.experiments.engine.fingerprint import class_digest

OF_METHOD = "of_method"  # the method keeps its own correction, or noise link
OVERRIDES = ("correction", "noise_link")  # configuration groups that change a parameter of the same name


@dataclass(frozen=True)
class MethodSpec:
    """One method of a run: its name in results, its record, and all its parameters."""

    name: str
    record: MethodRecord
    parameters: Mapping[str, Any]
    method: Method

    def parameter(self, name: str) -> str:
        """A parameter as results.csv shows it; empty where the method has none of that name."""
        return str(self.parameters.get(name, ""))

    @property
    def unit(self) -> str:
        """Name of its units in the store, which its settings tell apart."""
        return self.record.name

    @property
    def settings(self) -> dict[str, Any]:
        """What its relevance depends on, for the store."""
        cls = type(self.method)
        return {"method": cls.__name__, "code": class_digest(cls), **self.parameters}


def make_spec(record: MethodRecord, changes: Mapping[str, Any]) -> MethodSpec:
    """A method with some parameters changed, under the name that this makes.

    Raises:
        ConfigError: for a parameter that the method does not have, or a value that it refuses.
    """
    method = record.build(changes)
    parameters = record.accepted() | dict(changes)
    nearest, name = variant_of(record, changes)
    return MethodSpec(name, nearest, parameters, method)


def resolve_methods(cfg: DictConfig) -> list[MethodSpec]:
    """Methods of a run, in the order given; they may be named with changed parameters, ours_pos(y_unit=10).

    Raises:
        ConfigError: for an unknown method, or a parameter that it does not have.
    """
    single = _container(cfg.method)
    name = str(single.pop("name", ""))
    wanted: dict[str, dict[str, Any]] = {name: single} if cfg.methods is None else {n: {} for n in cfg.methods}
    for listed, values in _container(cfg.parameters).items():
        parse_name(listed)
        if listed not in wanted:
            raise ConfigError(
                f"parameters.{listed} is set, but this run computes {', '.join(wanted)}: add {listed!r} to methods, or "
                "drop it"
            )
        wanted[listed] |= values
    overrides = {group: cfg[group].name for group in OVERRIDES if cfg[group].name != OF_METHOD}
    specs = []
    for listed, values in wanted.items():
        name, changes = parse_name(listed)
        changes |= values
        record = get_method(name)
        without = [group for group in overrides if group not in record.accepted()]
        if without:
            group = without[0]
            having = ", ".join(n for n, r in METHODS.items() if group in r.accepted())
            raise ConfigError(
                f"{group}={overrides[group]} does not apply to method {listed!r}, which has no parameter of that name; "
                f"these have: {having}"
            )
        specs.append(make_spec(record, changes | overrides))
    names = [s.name for s in specs]
    if len(set(names)) != len(names):
        raise ConfigError(f"the overrides make several methods the same ({', '.join(names)}): drop one")
    return specs


def _container(node: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
