"""Which methods a run compares: names from the configuration, with the overrides of correction and noise link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from hetexp.attribution.methods import METHODS, Method, get_method
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError


@dataclass(frozen=True)
class MethodSpec:
    """One method of a run."""

    name: str
    method: Method

    @property
    def correction(self) -> str:
        return self.method.correction if isinstance(self.method, Ours) else ""

    @property
    def noise_link(self) -> str:
        return self.method.noise_link if isinstance(self.method, Ours) else ""

    @property
    def settings(self) -> dict[str, Any]:
        """What its relevance depends on, for the store."""
        return {"method": type(self.method).__name__, **vars(self.method)}


def _named(method: Ours) -> str:
    """Registered name of a combination, or one that spells it out."""
    known = next((name for name, other in METHODS.items() if other == method), None)
    return known or f"ours_{method.correction}_{method.noise_link}"


def resolve_methods(cfg: DictConfig) -> list[MethodSpec]:
    """Methods of a run, in the order given.

    Raises:
        ConfigError: for an unknown method, or a correction for a method that has none.
    """
    correction = None if cfg.correction.name == "of_method" else cfg.correction.name
    noise_link = None if cfg.noise_link.name == "of_method" else cfg.noise_link.name
    specs = []
    for name in cfg.methods or [cfg.method.name]:
        if cfg.methods is None and cfg.method.correction is not None:
            method: Method = Ours(cfg.method.correction, cfg.method.noise_link or "none")
        else:
            method = get_method(name)
        if correction is not None or noise_link is not None:
            if not isinstance(method, Ours):
                raise ConfigError(
                    f"correction={correction or 'of_method'} noise_link={noise_link or 'of_method'} do not apply to "
                    f"method {name!r}: they choose among the variants of ours_*"
                )
            method = Ours(correction or method.correction, noise_link or method.noise_link)
        specs.append(MethodSpec(_named(method) if isinstance(method, Ours) else name, method))
    names = [s.name for s in specs]
    if len(set(names)) != len(names):
        raise ConfigError(f"the overrides make several methods the same ({', '.join(names)}): drop one")
    return specs
