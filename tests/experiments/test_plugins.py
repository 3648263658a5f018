"""Methods and metrics of one's own: one file and one line each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_helpers import Compose, run_to

from hetexp.errors import ConfigError
from hetexp.experiments.detection import metrics as of_detection
from hetexp.experiments.detection.scenes import ScoredImage
from hetexp.experiments.vqa import metrics as of_vqa
from hetexp.experiments.vqa.metrics import Measured, Outcome

ROOT = Path(__file__).parents[2]

MY_METHOD = '''"""Attention of the last layer to a power."""

from dataclasses import dataclass
from typing import ClassVar

from hetexp.attribution.attention import RawAttention
from hetexp.attribution.registry import MethodRecord, register_method


@dataclass(frozen=True)
class MyMethod:
    power: float = 2
    corrections: ClassVar[tuple[str, ...]] = RawAttention.corrections
    features: ClassVar[tuple[str, ...]] = ()

    def __call__(self, trace, maps):
        return {source: x**self.power for source, x in RawAttention()(trace, maps).items()}


register_method(MethodRecord("my_method", "Mine", "my_method:MyMethod", "none"))
'''


def test_a_method_of_ones_own_is_swept(toy_model: Path, toy_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text(MY_METHOD)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "my_method.yaml").write_text("# attention to a power\nname: my_method\npower: 2\n")
    args = ["--config-dir", "conf", "-m", "method=my_method", "method.power=1,2", "plugins=[my_method]"]
    args += ["data=coco", f"data.root={toy_scenes}", f"model.checkpoint={toy_model}", "model.score_threshold=0.2"]
    args += ["workers=1", "limit=2", "progress=false", "hydra.sweep.dir=sweep"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *args],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    frame = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(frame["method"].unique()) == ["my_method(power=1)", "my_method"]
    assert len(set((tmp_path / "outputs" / "store").rglob("my_method-*"))) == 2  # one chunk, two powers


class MaskedShare:
    """Share of the image that masks cover, a metric of detection in a few lines."""

    panel = "masks"

    def __init__(self, coco: object, image_ids: object) -> None:
        self.shares: list[float] = []

    def add(self, image: ScoredImage) -> None:
        self.shares += image.masks.float().mean((1, 2)).tolist()

    def values(self) -> dict[str, float | None]:
        return {"share": 100 * float(np.mean(self.shares))}


def test_a_metric_of_detection_is_one_class_and_one_line(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(of_detection.METRICS, "share", f"{__name__}:MaskedShare")
    frame = run_to(toy_config("method=gae", "threshold.scale=[1.0,0.3]"), tmp_path / "both")
    found = frame[frame["panel"] == "masks"]
    assert found["metric"].tolist() == ["share", "share"]
    assert 0 < found["value"].iloc[0] < found["value"].iloc[1] < 100  # a lower threshold covers more
    assert set(frame["panel"]) == {"segm", "masks"}
    frame = run_to(toy_config("method=gae", "metrics=[share]"), tmp_path / "one")
    assert set(frame["panel"]) == {"masks"}


def share_of_words(outcome: Outcome) -> Iterator[Measured]:
    """Share of positive relevance that words have, a metric of question answering in a few lines."""
    sums = [
        (float(t.clamp(0).sum()), float(i.clamp(0).sum())) for t, i in zip(outcome.text, outcome.image, strict=True)
    ]
    yield Measured("words", "share", np.array([t / (t + i) for t, i in sums]))


def test_a_metric_of_question_answering_is_one_function_and_one_line(
    toy_vqa_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(of_vqa.METRICS, "words", f"{__name__}:share_of_words")
    frame = run_to(toy_vqa_config("method=gae", "metrics=[words]"), tmp_path / "run")
    (row,) = frame[frame["panel"] == "words"].to_dict("records")
    assert row["n"] == 9
    assert 0 < row["ci_low"] <= row["value"] <= row["ci_high"] < 100


@pytest.mark.parametrize(
    ("override", "message"),
    [("metrics=[nope]", "unknown metric 'nope'"), ("plugins=[nope_nope]", "there is no module 'nope_nope'")],
)
def test_unknown_names_are_refused(toy_config: Compose, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_to(toy_config("method=gae", override), tmp_path / "run")
