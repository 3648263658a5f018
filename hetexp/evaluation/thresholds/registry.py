"""The strategies by name: a new one is a file with a `ThresholdRule` and a line in STRATEGIES."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.paths import import_from

# Name, as `threshold.strategy` gives it -> class; conf/threshold holds their parameters.
STRATEGIES: dict[str, str] = {
    "otsu": "hetexp.evaluation.thresholds.otsu:Otsu",
    "quantile": "hetexp.evaluation.thresholds.quantile:Quantile",
    "fixed": "hetexp.evaluation.thresholds.fixed:Fixed",
    "best_f": "hetexp.evaluation.thresholds.best_f:BestF",
}


def get_strategy(name: str, parameters: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name, with its parameters; those that are not given keep their defaults.

    Raises:
        ConfigError: for an unknown name or parameter, the message lists the known ones; and for a value that the
            strategy refuses.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"unknown threshold strategy {name!r}. Available: {', '.join(STRATEGIES)}")
    make = import_from(STRATEGIES[name])
    known = inspect.signature(make).parameters
    values = {key: p.default for key, p in known.items()} | dict(parameters or {})
    unknown = [repr(key) for key in values if key not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"threshold strategy {name!r} has no parameter {', '.join(unknown)}: {has}")
    missing = [key for key, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise ConfigError(
            f"threshold strategy {name!r} needs the parameter {missing[0]}: give +threshold.parameters.{missing[0]}=..."
        )
    rule = make(**values)
    inside = ",".join(f"{key}={_shown(value)}" for key, value in values.items())
    return Strategy(f"{name}({inside})" if inside else name, rule)


def _shown(value: Any) -> str:
    """A parameter as results show it; 1 and 1.0 are the same number."""
    return f"{value:.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
