"""Check the overrides of a command line before Hydra reads them, to refuse slips in the user's terms.

Hydra reports its grammar ("mismatched input '=' expecting <EOF>") and its composition ("Could not override 'limt'");
here the same slips are met with what was probably meant.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from hetexp.config import Config
from hetexp.errors import ConfigError
from hetexp.paths import conf_dir

# Options of Hydra's own that take the next argument; the first bring keys and groups that are not known here.
_BRING_KEYS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_TAKE_ONE = (*_BRING_KEYS, "--package", "-p", "--info", "-i")
# Presets of launchers that are packages of their own.
_LAUNCHERS = {
    "parallel": "hydra_joblib_launcher",
    "local_node": "hydra_submitit_launcher",
    "slurm": "hydra_submitit_launcher",
}
_WRITTEN = ("paths.outputs", "paths.store", "hydra.run.dir", "hydra.sweep.dir")
_MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse overrides that cannot be read, and keys and choices that do not exist.

    Args:
        arguments: of the command line, Hydra's own options among them.

    Raises:
        ConfigError: with the form that works, or the nearest names.
    """
    foreign = any(argument.partition("=")[0] in _BRING_KEYS for argument in arguments)
    multirun = any(argument in _MULTIRUN for argument in arguments)
    for given in _overrides(arguments):
        override = _parsed(given)
        if override.is_sweep_override() and not multirun:
            hint = f"quote the value, {_shell_form(given)}" if _shell_form(given) else "give one value"
            raise ConfigError(
                f"{given!r} names several values: {hint}, make it a list, {shlex.quote(_as_list(given))}, or run one "
                "after the other with -m"
            )
        if not foreign:
            _check_names(override)


def check_writable(arguments: Sequence[str]) -> None:
    """Refuse folders for results that cannot be written to, before anything is computed.

    Raises:
        ConfigError: naming the folder.
    """
    given = {"paths.outputs": "outputs"}
    for override in map(_parsed, _overrides(arguments)):
        if override.key_or_group in _WRITTEN and isinstance(override.value(), str):
            given[override.key_or_group] = str(override.value())
    for key, folder in given.items():
        if "${" in folder:
            continue  # known once all is composed
        there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"{key}={folder} cannot be a folder, since {there} is a file: choose another one")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{key}={folder} cannot be written, since {there} is read-only: choose another one")


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """Those that set something, each of which must have a value."""
    for number, given in enumerate(arguments):
        before = arguments[number - 1] if number else ""
        if given.startswith("-") or before in _TAKE_ONE:
            continue
        if "=" in given or given.startswith("~"):
            yield given
        elif "=" in before:
            torn = list(_until_next(arguments[number - 1 :]))
            raise ConfigError(
                f"{given!r} is no key=value; if it belongs to the value before it, quote the whole: "
                f"{shlex.quote(' '.join(torn))}"
            )
        else:
            raise ConfigError(f"{given!r} is no key=value, such as limit=10: `--help` lists the keys")


def _until_next(arguments: Sequence[str]) -> Iterator[str]:
    """An override and the arguments after it that are none."""
    yield arguments[0]
    for argument in arguments[1:]:
        if "=" in argument or argument.startswith("-"):
            return
        yield argument


def _parsed(given: str) -> Override:
    try:
        return OverridesParser.create().parse_override(given)
    except HydraException as error:
        form = _shell_form(given)
        hint = f"write {form} (one pair is for the shell)" if form else "look at its brackets, commas and quotes"
        raise ConfigError(
            f"{given!r} cannot be read: signs such as = , ( ) [ ] {{ }} ' and letters beyond ASCII must stand in "
            f"quotes; {hint}"
        ) from error


def _shell_form(given: str) -> str | None:
    """The override with its value quoted as one text, as a shell takes it; None for a value that is no text."""
    key, _, value = given.partition("=")
    if value[:1] in ("[", "{") and _types().get(key.lstrip("+")) not in _TEXTS:
        return None
    for quote in ('"', "'"):
        escaped = value.replace(quote, f"\\{quote}")
        form = f"{key}={quote}{escaped}{quote}"
        try:
            if OverridesParser.create().parse_override(form).value() == value:
                return shlex.quote(form)
        except HydraException:
            continue
    return None


def _as_list(given: str) -> str:
    key, _, value = given.partition("=")
    return f"{key}=[{value}]"


_TEXTS = (str, str | None)


def _types(kind: Any = Config, above: str = "") -> dict[str, Any]:
    """Every key of the configuration with its type; a section is a key as well."""
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        name = f"{above}{field.name}"
        found[name] = hints[field.name]
        if is_dataclass(hints[field.name]):
            found |= _types(hints[field.name], f"{name}.")
    return found


def _groups() -> dict[str, list[str]]:
    """Every group of the configuration with its choices."""
    folders = [folder for folder in conf_dir().rglob("*") if folder.is_dir()]
    return {
        str(folder.relative_to(conf_dir())): sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders
    }


def _check_names(override: Override) -> None:
    """Refuse a key or a group's choice that does not exist."""
    key, groups = override.key_or_group, _groups()
    if key == "hydra/launcher":
        _check_launcher(str(override.value()))
    if key.startswith("hydra") or override.package is not None:
        return
    if key in groups:
        for choice in _choices(override):
            if choice not in groups[key]:
                near = _near(choice, groups[key])
                raise ConfigError(f"unknown {key} {choice!r}: {near}available are {', '.join(groups[key])}")
        return
    types = _types()
    parts = key.split(".")
    above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    if any(name in types and not is_dataclass(types[name]) for name in above) or key in types:
        return  # a key, or one within a section that may hold any
    if not (override.is_add() or override.is_force_add()):  # what is added is looked at once all is composed
        near = _near(key, [*types, *groups])
        raise ConfigError(f"unknown key {key}: {near}`--help` lists the keys")


def _check_launcher(name: str) -> None:
    plugin = _LAUNCHERS.get(name)
    if plugin is not None and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        raise ConfigError(
            f"hydra/launcher={name} needs Hydra's {plugin}: install it with pip install 'hetexp[cluster]'"
        )


def _choices(override: Override) -> list[str]:
    if override.is_delete():
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    value = override.value()
    return [value] if isinstance(value, str) else []


def _near(name: str, known: Iterable[str]) -> str:
    """What was probably meant, as a question; "" if nothing is near."""
    names = list(known)
    found = [k for k in names if k.startswith(name)] or difflib.get_close_matches(name, names, n=1)
    return f"did you mean {found[0]}? " if found else ""
