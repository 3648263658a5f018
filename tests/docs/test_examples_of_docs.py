"""The code that docs/how-to shows: every example runs and does what its page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import hetexp
from hetexp import config
from hetexp.attribution.registry import METHODS
from hetexp.data.coco import open_coco
from hetexp.data.registry import DATASETS
from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.registry import STRATEGIES, get_strategy
from hetexp.evaluation.thresholds.strategy import GreyMaps
from hetexp.experiments.detection.metrics import METRICS
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import evaluate
from hetexp.models.registry import ARCHITECTURES
from hetexp.paths import asset

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import an example as a plugin would be; what it registers goes again afterwards."""
    registries: list[dict[str, Any]] = [METHODS, METRICS, DATASETS, ARCHITECTURES, STRATEGIES]
    before = [dict(registry) for registry in registries]
    monkeypatch.syspath_prepend(EXAMPLES)
    imported = []

    def load(name: str) -> ModuleType:
        imported.append(name)
        return import_module(name)

    yield load
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
    for name in imported:
        sys.modules.pop(name, None)


def results(folder: Path, *overrides: str) -> pd.DataFrame:
    """What a run of the command line with these overrides writes."""
    cfg = config.composed("progress=false", f"paths.outputs={folder}", *overrides)
    evaluate(open_session(cfg, folder / "run"))
    return pd.read_csv(folder / "run" / "results.csv")


def test_method_takes_its_parameter(example):
    sharpened = example("my_method").Sharpened
    image = Image.open(asset("scenes/val/images/000175.jpg")).convert("RGB")
    detr = hetexp.load_model("detr", asset("detr"))
    found = hetexp.explain(
        detr,
        detr.prepare([image]),
        {
            "ours_pos": METHODS["ours_pos"].build(),
            "one": sharpened(),
            "two": METHODS["my_method"].build({"power": 2.0}),
        },
    )
    assert len(found.rows) > 0
    torch.testing.assert_close(found["one"]["image"], found["ours_pos"]["image"])
    assert not torch.allclose(found["two"]["image"], found["ours_pos"]["image"])
    with pytest.raises(ConfigError, match="power=-1"):
        sharpened(-1)


def test_yaml_equals_the_constructor(example):
    example("my_method")
    values = dict(OmegaConf.load(EXAMPLES / "conf" / "method" / "my_method.yaml"))
    assert values.pop("name") == "my_method"
    assert values == METHODS["my_method"].accepted()


def test_metric_is_between_nothing_and_all(example, tmp_path):
    example("my_metric")
    frame = results(tmp_path, "limit=2", "metrics=[segm,mask_share]", "threshold.scale=[1.0,0.3]")
    shares = frame[frame["metric"] == "mask_share"].set_index("threshold")["value"]
    assert 0 < shares[1.0] < shares[0.3] < 100  # a lower threshold, a larger mask
    assert set(frame["metric"]) == {"mask_share", "AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large"}


def test_threshold_of_ones_own_makes_the_masks(example, tmp_path):
    example("my_threshold")
    levels = torch.tensor([[[0, 10, 20, 30]]], dtype=torch.uint8)
    (found,) = get_strategy("above_mean", {"deviations": 2.0}).thresholds([GreyMaps(levels)])
    assert found.tolist() == [15 + 2 * np.sqrt(125)]
    example("my_metric")
    asked = ["limit=2", "metrics=[segm,mask_share]", "threshold.strategy=above_mean"]
    one, two = (results(tmp_path, *asked, f"+threshold.parameters.deviations={n}") for n in (1, 2))
    assert set(one["strategy"].dropna()) == {"above_mean(deviations=1)"}
    assert set(two["strategy"].dropna()) == {"above_mean(deviations=2)"}
    shares = [frame.set_index("metric")["value"]["mask_share"] for frame in (one, two)]
    assert shares[0] > shares[1] > 0, "a higher threshold, a smaller mask"


def label_images(root: Path) -> None:
    """Two embedded scenes with label images of its annotations."""
    (root / "photos").mkdir(parents=True)
    (root / "labels").mkdir()
    scenes = open_coco(config.composed().data, limit=2, seed=0)
    names = list(scenes.categories.values())
    (root / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    for item in scenes.items:
        labels = np.zeros((item.height, item.width), np.uint8)
        for annotation in scenes.coco.imgToAnns[item.image_id]:
            category = names.index(scenes.categories[annotation["category_id"]]) + 1
            labels[scenes.coco.annToMask(annotation) > 0] = category
        shutil.copy(scenes.path(item), root / "photos" / item.file_name)
        Image.fromarray(labels).save((root / "labels" / item.file_name).with_suffix(".png"))


def test_dataset_format_is_scored(example, tmp_path):
    example("my_dataset")
    label_images(tmp_path / "data")
    values = OmegaConf.to_container(OmegaConf.load(EXAMPLES / "conf" / "data" / "my_dataset.yaml"))
    assert isinstance(values, dict)
    frame = results(
        tmp_path,
        "data=coco",
        *(f"data.{key}={values[key]}" for key in ("name", "format", "images", "annotations")),
        f"data.root={tmp_path / 'data'}",
    )
    assert set(frame["data"]) == {"my_dataset"}
    assert set(frame.loc[frame["panel"] == "segm", "n"]) == {2}
    assert frame.set_index("metric").loc["AP", "value"] > 0


def test_page_from_python_runs(tmp_path, monkeypatch):
    shutil.copy(asset("scenes/val/images/000175.jpg"), tmp_path / "photo.jpg")
    page = (EXAMPLES.parent / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), names)
    assert names["explanation"].targets == ["logit(yes) − logit(no)"]
    assert (tmp_path / "explained" / "masks.json").is_file()


def test_own_architecture_is_wired_as_its_page_says(example, tmp_path, monkeypatch):
    mine = example("my_architecture")
    page = (EXAMPLES.parent / "how_to" / "wiring.md").read_text(encoding="utf-8")
    printed = str(hetexp.propose(mine.Answerer(), mine.inputs()))
    assert re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) == [printed]
    shutil.copy(EXAMPLES / "my_wiring.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), names)
    relevance = names["explanation"]["ours_abs"]
    assert {source: tuple(found.shape) for source, found in relevance.items()} == {
        "words": (1, 5),
        "picture": (1, 3, 3),
    }
    uncorrected = hetexp.wrap(mine.Answerer(), hetexp.propose(mine.Answerer(), mine.inputs()))
    joint = hetexp.explain(uncorrected, mine.inputs(), ["ours_abs"], hetexp.targets.Logit(2))["ours_abs"]["tokens"]
    torch.testing.assert_close(torch.cat([relevance["words"], relevance["picture"].flatten(1)], 1), joint)


def test_swept_from_the_command_line(tmp_path):
    shutil.copy(EXAMPLES / "my_method.py", tmp_path)
    shutil.copytree(EXAMPLES / "conf", tmp_path / "my_conf")
    swept = ["--config-dir", "my_conf", "-m", "method=my_method", "method.power=1,2", "plugins=[my_method]"]
    command = [sys.executable, "-m", "hetexp.cli", *swept, "limit=2", "progress=false", "hydra.sweep.dir=sweep"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert set(frame["method"]) == {"my_method", "my_method(power=2)"}


def test_the_tutorial_runs_from_a_photograph_to_a_claim(tmp_path):
    """Every command of the page, in order, in a folder of its own."""
    for name in ("my_method.py", "my_claims.yaml", "tutorial_data.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    shutil.copytree(EXAMPLES / "conf", tmp_path / "conf")
    shutil.copy(asset("scenes/val/images/000175.jpg"), tmp_path / "photo.jpg")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = (EXAMPLES / "tutorial.sh").read_text(encoding="utf-8")
    shell = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(shell, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    claims = pd.read_csv(tmp_path / "outputs" / "tables" / "my_claims.csv")
    assert set(claims["verdict"]) <= {"holds", "contradicted", "undecided"}
    assert claims.set_index("claim").iloc[0]["verdict"] == "holds"
