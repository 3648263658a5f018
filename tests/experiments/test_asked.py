"""task=explain: what is refused before torch and a model load, and what an explanation does not load at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from run_helpers import Compose

from hetexp.errors import CheckpointError, ConfigError, DataError, HetexpError
from hetexp.experiments import asked
from hetexp.experiments.experiment import EXPERIMENTS
from hetexp.paths import import_from
from hetexp.tasks import TASKS


class Loaded(Exception):
    """What a model needs was about to be imported."""


@pytest.fixture(autouse=True)
def _nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reference: str) -> None:
        raise Loaded(reference)

    monkeypatch.setattr(asked, "import_for_good", refuse)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ([], ConfigError, "needs an image"),
        (["image=nowhere.jpg"], ConfigError, "does not exist"),
        (["image=FOLDER"], ConfigError, "is a folder"),
        (["image=ANNOTATIONS"], DataError, "cannot be read as an image"),
        (["image=PICTURE", "question=is there a dog"], ConfigError, "question=is there a dog is nothing that detr can"),
        (["image=PICTURE", "methods=[ours_pos,gea]"], ConfigError, "unknown method 'gea'"),
        (["image=PICTURE", "model.checkpoint=/nowhere"], CheckpointError, r"'/nowhere' is no folder.*or \.pt file"),
        (["image=PICTURE", "model.checkpoint=PICTURE"], CheckpointError, "is no folder"),
        (["image=PICTURE", "threshold.scale=0"], ConfigError, "must be a positive number"),
    ],
)
def test_slips_are_refused_before_anything_loads(
    toy_config: Compose, toy_scenes: Path, overrides: list[str], error: type[HetexpError], message: str
) -> None:
    places = {"PICTURE": "images/001.png", "ANNOTATIONS": "annotations.json", "FOLDER": "images"}
    for name, path in places.items():
        overrides = [o.replace(name, str(toy_scenes / path)) for o in overrides]
    with pytest.raises(error, match=message):
        asked.run_explain(toy_config("task=explain", *overrides))


def test_a_picture_of_any_other_kind_goes_on(toy_config: Compose, toy_scenes: Path) -> None:
    with pytest.raises(Loaded, match="explain_own:run"):
        asked.run_explain(toy_config("task=explain", f"image={toy_scenes / 'images' / '001.png'}"))


def test_methods_of_plugins_are_not_known_yet(toy_config: Compose, toy_scenes: Path) -> None:
    with pytest.raises(Loaded):
        asked.run_explain(
            toy_config(
                "task=explain", f"image={toy_scenes / 'images' / '001.png'}", "methods=[mine]", "plugins=[my_methods]"
            )
        )


@pytest.mark.parametrize("name", ["detr", "auto", "bart"])
def test_a_checkpoint_of_any_model_is_looked_for(composed: Compose, name: str) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        asked.run_explain(composed("task=explain", f"model={name}", "model.checkpoint=/nowhere", "image=x.jpg"))


def loaded_by(code: str) -> set[str]:
    """Top-level names and names of modules that a fresh process has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_looking_at_a_command_loads_no_torch() -> None:
    loaded = loaded_by("import hetexp.application, hetexp.tasks, hetexp.experiments.asked")
    assert "PIL" in loaded
    assert not loaded & {"torch", "transformers", "matplotlib", "pandas", "hetexp.experiments.engine.session"}


def test_explaining_a_picture_loads_what_it_needs_alone() -> None:
    loaded = loaded_by(
        "import hetexp.experiments.engine.collate, hetexp.experiments.explain_own, "
        "hetexp.experiments.detection.explain, hetexp.models.detr"
    )
    assert {"torch", "transformers", "matplotlib"} <= loaded
    unneeded = {"pandas", "pyarrow", "requests", "skimage", "scipy.ndimage", "pycocotools.coco", "wandb"}
    assert not loaded & {*unneeded, "hetexp.experiments.own_inputs", "hetexp.experiments.detection.run"}


def test_every_name_of_a_task_and_of_an_experiment_is_there() -> None:
    references = [*TASKS.values(), *(r for e in EXPERIMENTS.values() for r in astuple(e) if r is not None)]
    assert all(callable(import_from(reference)) for reference in references)
