"""One experiment under several choices: the same items evaluated again with one thing changed at a time.

    choices:
      ties in the mask: {threshold: {tie: foreground}}    # any keys of the configuration
      y times 10: {parameters: {y_unit: 10}}              # of every method that has these parameters

What needs no other backward pass is read from the store, so that a choice costs what its evaluation does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hetexp.attribution.registry import get_method, parse_name, variant_of
from hetexp.errors import ConfigError
from hetexp.experiments.engine.results import RESULTS
from hetexp.experiments.engine.session import Session, open_session
from hetexp.files import atomic_write

log = logging.getLogger("hetexp")

BASELINE = "as published"  # the run without any change, which comes first


def evaluate_choices(cfg: DictConfig, folder: Path, evaluate: Callable[[Session], None]) -> None:
    """Evaluate under the baseline and every choice, a folder each, and write one `results.csv` with a column `choice`.

    Args:
        cfg: with `choices`, and the methods that take part in `methods`.
        folder: of the whole run.
        evaluate: evaluates one session and writes its results.

    Raises:
        ConfigError: for a choice that changes nothing, or names unknown keys.
    """
    if cfg.methods is None or cfg.experiment is None:
        raise ConfigError("choices need methods=[...] and a name of the experiment, experiment=...")
    baseline: Session | None = None
    frames = []
    for number, (name, choice) in enumerate({BASELINE: {}, **cfg.choices}.items()):
        log.info("%s, choice %d: %s", cfg.experiment, number, name)
        session = open_session(under(cfg, name, choice), folder / f"{number:02d}")
        session.baseline = baseline
        evaluate(session)
        baseline = baseline or session
        frame = pd.read_csv(session.folder / RESULTS, keep_default_na=False, na_values=[""])
        frames.append(frame.assign(experiment=cfg.experiment, choice=name, folder=session.folder.name))
    atomic_write(folder / RESULTS, pd.concat(frames).to_csv(index=False, lineterminator="\n"))


def under(cfg: DictConfig, name: str, choice: Mapping[str, Any]) -> DictConfig:
    """The configuration of one choice.

    Raises:
        ConfigError: for keys that do not exist, and parameters that no method has.
    """
    changes = dict(choice)
    parameters = dict(changes.pop("parameters", {}))
    own = {"choices": None, "experiment": f"{cfg.experiment}/{name}"}
    try:
        changed = OmegaConf.merge(cfg, changes, own)
    except OmegaConfBaseException as error:
        raise ConfigError(f"choice {name!r} cannot be made: {str(error).splitlines()[0]}") from error
    assert isinstance(changed, DictConfig)
    changed.methods = [_named(method, parameters) for method in changed.methods]
    unused = [key for key in parameters if not any(f"{key}=" in method for method in changed.methods)]
    if unused:
        raise ConfigError(f"choice {name!r} changes {', '.join(unused)}, which no method has, or has so already")
    return changed


def _named(method: str, parameters: Mapping[str, Any]) -> str:
    """The method's name with those parameters that it has."""
    name, changes = parse_name(method)
    record = get_method(name)
    known = record.accepted()
    return variant_of(record, changes | {k: v for k, v in parameters.items() if k in known})[1]
