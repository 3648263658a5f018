"""Weights & Biases: what is logged offline, and that a failing logger costs nothing."""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_helpers import Compose, run_to, same_bytes

from hetexp.errors import ConfigError
from hetexp.experiments.engine import tracking
from hetexp.experiments.engine.session import open_session

WANDB = ["logger=wandb", "logger.mode=offline", "logger.overlays=3", "logger.group=sweep-7"]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    return module


class Run:
    """Stands in for a W&B run and remembers what it was told."""

    def __init__(self, told: dict[str, Any], **settings: Any) -> None:
        self.told = told
        told["settings"] = settings

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *args: object) -> None:
        self.told["ended"] = True

    def log(self, values: dict[str, Any]) -> None:
        self.told.setdefault("logged", {}).update(values)


@pytest.fixture
def told(wandb: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that reaches wandb, without starting it."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **settings: Run(seen, **settings))
    return seen


def test_offline_run(
    wandb: Any, toy_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = run_to(toy_config("methods=[gae,odam]", *WANDB), tmp_path / "run")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "wandb" not in capfd.readouterr().err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (table,) = (folder / "files" / "media" / "table").glob("*.json")
    logged = json.loads(table.read_text())
    assert logged["columns"] == list(frame.columns)
    assert len(logged["data"]) == len(frame)
    assert len(list((folder / "files" / "media" / "images").rglob("*.png"))) == 3
    assert list(folder.glob("*.wandb"))
    assert not list(tmp_path.glob("wandb"))  # nothing outside the run's folder


def test_what_is_logged(told: dict[str, Any], toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    frame = run_to(toy_config("method=gae", *WANDB), tmp_path / "run")
    assert told["ended"]
    assert told["settings"]["group"] == "sweep-7"
    assert told["settings"]["mode"] == "offline"
    assert told["settings"]["resume"] == "allow"
    assert told["settings"]["config"]["method"]["name"] == "gae"
    values = frame.dropna(subset=["value"])
    assert len(values) > 0
    for row in values.itertuples():
        assert told["logged"][f"gae/segm/1/{row.metric}"] == row.value
    pictures = [value for name, value in told["logged"].items() if name.startswith("samples/")]
    assert len(pictures) == 3
    assert pictures[0].image.size == (160, 120)
    assert len(np.unique(np.asarray(pictures[0].image).reshape(-1, 3), axis=0)) > 1000


def test_scalars_leave_out_what_does_not_apply() -> None:
    row = {"method": "gae", "panel": "image+", "threshold": None, "metric": "AUC", "value": 2.0}
    frame = pd.DataFrame([row, row | {"method": "", "panel": "", "metric": "accuracy"}, row | {"value": None}])
    assert tracking.scalars(frame) == {"gae/image+/AUC": 2.0, "accuracy": 2.0}


def test_a_rerun_resumes_and_another_job_does_not(told: dict[str, Any], toy_config: Compose, tmp_path: Path) -> None:
    ids = []
    for number, more in enumerate([[], ["threads=1"], ["threshold.scale=0.3"], ["model.score_threshold=0.3"]]):
        run_to(toy_config("method=gae", *WANDB, *more), tmp_path / str(number))
        ids.append(told["settings"]["id"])
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_the_experiment_names_the_group(told: dict[str, Any], toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("method=gae", "logger=wandb")
    cfg.experiment = "table1"
    run_to(cfg, tmp_path / "run")
    assert told["settings"]["group"] == "table1"


@pytest.mark.parametrize("where", ["init", "log", "Table", "pictures"])
def test_failing_logger_never_ends_a_run(
    wandb: Any,
    told: dict[str, Any],
    toy_config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    plain = toy_config("method=gae")
    run_to(plain, tmp_path / "plain")

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError("the network is gone")

    target = {"log": Run, "Table": wandb, "init": wandb, "pictures": None}[where]
    if target is None:
        monkeypatch.setattr(import_module("hetexp.experiments.detection.run"), "overlays", fails)
    else:
        monkeypatch.setattr(target, where, fails)
    run_to(toy_config("method=gae", *WANDB), tmp_path / "run")
    assert "the network is gone" in caplog.text
    same_bytes(tmp_path / "plain", tmp_path / "run")


def test_missing_package_is_a_warning(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run_to(toy_config("method=gae", *WANDB), tmp_path / "run")
    assert "hetexp[wandb]" in caplog.text
    assert (tmp_path / "run" / "results.csv").exists()


def test_unknown_logger_is_refused(toy_config: Compose, tmp_path: Path) -> None:
    session = open_session(toy_config("logger.name=nope"), tmp_path / "run")
    with pytest.raises(ConfigError, match="none or wandb"):
        tracking.log_run(session, pd.DataFrame())
