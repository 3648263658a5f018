"""What result files say where there is nothing to say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from run_helpers import Compose

from hetexp.config import run_label
from hetexp.experiments.engine.collate import CollateResults
from hetexp.experiments.engine.results import COLUMNS, results_frame, write_results


def row(**entries: object) -> dict[str, object]:
    return {**dict.fromkeys(COLUMNS), "method": "gae", "panel": "segm", "metric": "AP", "n": 3, **entries}


def test_absent_values_are_printed_as_nothing(tmp_path: Path) -> None:
    write_results(tmp_path, results_frame([row(value=12.5, threshold=1.0), row(metric="AP_large", n=3)]))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "nan" not in text.lower()
    assert "12.5000" in text
    assert "None" not in text
    assert len(pd.read_csv(tmp_path / "results.csv")) == 2


def test_a_sweep_without_an_experiment_says_what_is_swept(tmp_path: Path) -> None:
    for number, experiment in enumerate((None, "table1")):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_results(folder, results_frame([row(value=1.0, experiment=experiment)]))
    tasks = ["data=coco", "threshold.scale=1.0,0.3", "method=gae,odam"]
    sweep = {"dir": str(tmp_path)}
    cfg = OmegaConf.create({"hydra": {"sweep": sweep, "overrides": {"task": tasks}}})
    CollateResults().on_multirun_end(cfg)
    found = pd.read_csv(tmp_path / "results.csv")
    assert found["experiment"].tolist() == ["sweep of threshold.scale, method", "table1"]


def test_a_merged_run_is_named_so(composed: Compose) -> None:
    assert run_label(None, "merge", "detr", "ours_abs") == "merge"
    assert run_label(None, "evaluate", "detr", "ours_abs") == "detr_ours_abs"
