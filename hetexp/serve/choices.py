"""The methods that the page offers, and the one that a user chose of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hetexp.attribution.corrections import CORRECTIONS
from hetexp.attribution.method import Method, NeedsPasses
from hetexp.attribution.ours import NOISE_LINKS
from hetexp.attribution.registry import METHODS
from hetexp.errors import InputError
from hetexp.experiments.engine.methods import OVERRIDES, MethodSpec, make_spec
from hetexp.experiments.engine.session import Session
from hetexp.reporting.names import method_name

VALUES = dict(zip(OVERRIDES, (CORRECTIONS, NOISE_LINKS), strict=True))


@dataclass(frozen=True)
class Choice:
    """A method with the parameters that the page lets a user change; None leaves the method's own."""

    method: str
    correction: str | None = None
    noise_link: str | None = None

    def changes(self) -> dict[str, str]:
        """Those that are changed."""
        return {name: value for name in OVERRIDES if (value := getattr(self, name)) is not None}


class Offered:
    """The methods of a run's configuration, and unless it lists them with `methods=`, all others that fit the model.

    A method that reads intermediate features fits a model that has some; whether one fits otherwise is known once it
    has been tried.
    """

    def __init__(self, session: Session) -> None:
        specs = {spec.name: spec for spec in session.methods}
        if session.cfg.methods is None:
            specs |= {name: make_spec(record, {}) for name, record in METHODS.items() if name not in specs}
        has_features = bool(session.adapter.feature_names)
        self.first = session.methods[0].name
        self.specs = {name: s for name, s in specs.items() if has_features or not s.method.features}

    @property
    def from_one_trace(self) -> dict[str, Method]:
        """Those that need no further pass: name -> method."""
        return {name: s.method for name, s in self.specs.items() if not isinstance(s.method, NeedsPasses)}

    def chosen(self, choice: Choice) -> MethodSpec:
        """The method that a user chose.

        Raises:
            ConfigError: for a parameter that the method does not have.
            InputError: for a method that is not offered.
        """
        if choice.method not in self.specs:
            raise InputError(f"method {choice.method!r} is not offered here; offered are {', '.join(self.specs)}")
        spec = self.specs[choice.method]
        changes = choice.changes()
        return make_spec(spec.record, {**spec.parameters, **changes}) if changes else spec

    def described(self) -> list[dict[str, Any]]:
        """Every method for the page, JSON-serialisable."""
        return [self._described(name, spec) for name, spec in self.specs.items()]

    def _described(self, name: str, spec: MethodSpec) -> dict[str, Any]:
        own: Mapping[str, Any] = spec.parameters
        return {
            "name": name,
            "label": method_name(name),
            "reference": spec.record.reference,
            "passes": isinstance(spec.method, NeedsPasses),
            "own": {group: own[group] for group in OVERRIDES if group in own},
        }
