"""Strategies of binarisation in runs: one of one's own, sweeps over them, what results say, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from run_helpers import Compose, run_to

from hetexp import tasks
from hetexp.config import without_data
from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.masks import binarise, segment, to_image
from hetexp.evaluation.thresholds.registry import get_strategy
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.experiments.detection.scenes import Scene, StoredImage
from hetexp.experiments.detection.thresholds import objects_of
from hetexp.experiments.engine.session import Session, open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.tasks import evaluate, make_samples
from hetexp.reporting.products import make_figures
from hetexp.reporting.samples import StoredExplanation, read_samples

ROOT = Path(__file__).parents[2]

MY_THRESHOLD = '''"""Half way between a map's mean and its largest value."""

from hetexp.evaluation.thresholds.registry import STRATEGIES


class HalfWay:
    scalable = True
    needs_objects = False

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def __call__(self, images):
        return [(1 - self.weight) * i.u8.double().mean((1, 2)) + self.weight * 255 for i in images]


STRATEGIES["half_way"] = f"{__name__}:HalfWay"
'''


def command_line(folder: Path, *args: str) -> str:
    """Run the command line in a folder; what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *args],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_strategy_of_ones_own_is_swept(toy_model: Path, toy_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "my_threshold.py").write_text(MY_THRESHOLD)
    toy = ["data=coco", f"data.root={toy_scenes}", f"model.checkpoint={toy_model}", "model.score_threshold=0.2"]
    toy += ["limit=2", "progress=false", "bootstrap=0", "metrics=[segm,masks]", "workers=1", "method=gae"]
    mine = ["plugins=[my_threshold]", "threshold.strategy=half_way", "+threshold.parameters.weight=0.1"]
    command_line(tmp_path, "-m", *toy, *mine, "threshold.scale=0.9,0.5", "hydra.sweep.dir=mine")
    found = pd.read_csv(tmp_path / "mine" / "results.csv")
    found = found[found["metric"] == "kept_relevance"]
    assert found["threshold"].tolist() == [0.9, 0.5]
    assert set(found["strategy"]) == {"half_way(weight=0.1)"}
    assert 0 < found["value"].iloc[0] < found["value"].iloc[1], "a lower threshold keeps more"


def test_strategies_are_swept_and_told_apart(toy_model: Path, toy_scenes: Path, tmp_path: Path) -> None:
    toy = ["data=coco", f"data.root={toy_scenes}", f"model.checkpoint={toy_model}", "model.score_threshold=0.2"]
    toy += ["limit=2", "progress=false", "bootstrap=0", "metrics=[segm,masks]", "method=gae"]
    said = command_line(tmp_path, "-m", *toy, "threshold=otsu,quantile,fixed,best_f", "hydra.sweep.dir=all")
    found = pd.read_csv(tmp_path / "all" / "results.csv")
    names = ["otsu", "quantile(share=0.1)", "fixed(level=0.2)", "best_f"]
    assert found["strategy"].dropna().unique().tolist() == names
    kept = found[found["metric"] == "kept_relevance"].set_index("strategy")["value"]
    assert kept[names[:3]].nunique() == 3
    for name in names:
        assert f"threshold {name}, scale 1" in said
    facts = json.loads((tmp_path / "all" / "1" / "run.json").read_text())
    assert facts["threshold"] == {"strategy": "quantile(share=0.1)", "upsample": "reference", "tie": "background"}


def test_the_best_level_bounds_the_other_strategies(composed: Compose, tmp_path: Path) -> None:
    """On embedded scenes, whose detections are right, the oracle is ahead."""
    base = [
        "limit=4",
        "progress=false",
        "bootstrap=0",
        "metrics=[segm]",
        f"paths.outputs={tmp_path}",
        "method=ours_abs",
    ]
    found = {
        name: run_to(composed(*base, f"threshold={name}"), tmp_path / name).set_index("metric")["value"]
        for name in ("otsu", "quantile", "fixed", "best_f")
    }
    for name in ("otsu", "quantile", "fixed"):
        assert found["best_f"]["AP"] > found[name]["AP"]
        assert found["best_f"]["AR"] > found[name]["AR"]


# -- whose object a map is -------------------------------------------------------------------------------------


def test_a_map_has_the_object_of_its_category_under_its_box() -> None:
    size = (40, 40)
    corners = {1: (0, 0, 20, 20), 2: (20, 20, 20, 20), 3: (0, 0, 20, 20), 4: (20, 0, 20, 20)}  # x, y, w, h
    category = {1: 7, 2: 7, 3: 8, 4: 9}
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "categories": [{"id": c, "name": str(c)} for c in (7, 8, 9)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category[number],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(number == 4),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for number, (x, y, w, h) in corners.items()
        ],
    }
    coco.createIndex()
    detections = [(0, 7, 0.9), (1, 7, 0.8), (2, 8, 0.7), (3, 9, 0.6), (4, 7, 0.5), (-1, 8, 0.4)]
    boxes = [(0.7, 0.7, 0.5, 0.5), (0.25, 0.25, 0.5, 0.5), (0.3, 0.3, 0.5, 0.5), (0.75, 0.25, 0.5, 0.5)]
    boxes += [(0.5, 0.5, 0.5, 0.5), (0.25, 0.25, 0.5, 0.5)]
    scene = Scene(StoredImage(1, size, size, detections, boxes), coco)  # type: ignore[arg-type]
    found = objects_of(scene, (5, 4, 4), Upsampling.nearest, Tie.background)
    assert found.known.tolist() == [True, True, True, False, False]  # a crowd is none, nor is one that lies elsewhere
    assert found.pixels.sum(1).tolist() == [400, 400, 400, 0, 0]
    wanted = np.zeros((4, 4))
    wanted[2:, 2:] = 100  # cells run down a column first: the same for an object in the corner
    assert np.array_equal(found.pixels[0].reshape(4, 4), wanted)
    assert np.array_equal(found.pixels[1].reshape(4, 4), wanted[::-1, ::-1])


# -- explanations ----------------------------------------------------------------------------------------------


def test_samples_are_made_by_the_strategy_and_figures_of_otsu_refuse_them(toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("task=samples", "limit=1", "threshold=quantile", "threshold.parameters.share=0.3")
    make_samples(open_session(cfg, tmp_path / "run"))
    (sample,) = read_samples(Path(cfg.paths.outputs), "detection").samples
    assert sample.info["strategy"] == "quantile(share=0.3)"
    relevance = torch.from_numpy(sample.relevance["ours_abs"])
    small = binarise(relevance, get_strategy("quantile", {"share": 0.3}))
    expected = to_image(small, sample.info["input_size"], sample.ground.shape[:2]).numpy()
    assert set(sample.masks) == {f"{method}@1" for method in sample.methods}
    assert np.array_equal(sample.masks["ours_abs@1"], expected)
    with pytest.raises(DataError, match=r"holds masks by quantile\(share=0\.3\), not at multiples of Otsu's"):
        make_figures(Path(cfg.paths.outputs), ["figure3"])
    made = make_figures(Path(cfg.paths.outputs))  # all that can be: relevance has no threshold
    assert "figure2" in [product.name for product in made]
    assert {"figure3", "figure4"}.isdisjoint(product.name for product in made)


def test_an_own_image_is_masked_as_asked(toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    asked = ["task=explain", f"image={toy_scenes / 'images' / '001.png'}", "methods=[gae]"]
    asked += ["threshold=fixed", "threshold.parameters.level=0.4", "threshold.scale=0.5", "threshold.tie=foreground"]
    explain_own(open_session(without_data(toy_config(*asked)), tmp_path / "run"))
    stored = StoredExplanation.read(tmp_path / "run" / "explanation" / "input")
    assert (stored.info["strategy"], stored.info["tie"]) == ("fixed(level=0.4)", "foreground")
    sizes = stored.info["input_size"], stored.ground.shape[:2]
    relevance = torch.from_numpy(stored.relevance["gae"])
    fifth = segment(relevance, 1.0, *sizes, tie="foreground", strategy=get_strategy("fixed", {"level": 0.2}))
    assert np.array_equal(stored.masks["gae@0.5"].astype(bool), fifth.numpy())


def test_sample_pictures_of_loggers_say_and_show_the_strategy(toy_config: Compose, tmp_path: Path) -> None:
    coloured = []
    for share in (0.1, 0.5):
        asked = ["method=gae", "limit=1", "bootstrap=0", "threshold=quantile", f"threshold.parameters.share={share}"]
        session = open_session(toy_config(*asked), tmp_path / str(share))
        evaluate(session)
        assert session.pictures is not None
        ((caption, picture),) = session.pictures(1)
        assert f"quantile(share={share}), scale 1" in caption
        pixels = np.asarray(picture).astype(int)
        coloured.append(float((np.ptp(pixels, axis=2) > 0).mean()))
    assert 0 < coloured[0] < coloured[1], "grey where there is no mask"


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["threshold.strategy=nope"], "unknown threshold strategy 'nope'. Available: otsu, quantile, fixed, best_f"),
        (["threshold=quantile", "threshold.parameters.share=2"], "share=2 of quantile must be a number above 0"),
        (["threshold=fixed", "threshold.parameters.level=-1"], "level=-1 of fixed must be a number from 0 to 1"),
        (["threshold=fixed", "+threshold.parameters.share=1"], "'fixed' has no parameter 'share': it has level"),
        (["threshold=quantile", "threshold.strategy=otsu"], "'otsu' has no parameter 'share': it has none"),
        (
            ["threshold=quantile", "threshold.scale=0.3"],
            r"threshold\.scale=0\.3 has no meaning for threshold\.strategy=quantile\(share=0\.1\), .* leave it at "
            r"1\.0, and change threshold\.parameters\.share",
        ),
        (["threshold=best_f", "threshold.scale=[1.0,0.3]"], r"threshold\.scale=\[1\.0, 0\.3\] has no meaning"),
        (["threshold=best_f", "threshold.upsample=bilinear_relevance"], "choose reference, bilinear or nearest"),
        (["threshold=best_f", "task=samples"], "best_f reads the masks of the objects, which task=samples does not"),
        (["threshold=best_f", "task=explain"], "which task=explain does not have"),
        (["threshold=best_f", "logger=wandb"], r"set logger\.overlays=0"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(
    toy_config: Compose, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_session(toy_config(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "refused before anything is written"


def test_the_best_level_needs_annotated_objects(toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    path = toy_scenes / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    run_to(toy_config("method=gae", "limit=2"), tmp_path / "otsu")
    with pytest.raises(DataError, match="best_f reads the masks of the objects, and data=coco has no annotated object"):
        run_to(toy_config("method=gae", "limit=2", "threshold=best_f"), tmp_path / "best_f")


@pytest.mark.parametrize("run", [evaluate, make_samples, explain_own])
def test_models_without_masks_refuse_it(
    toy_vqa_config: Compose, tmp_path: Path, run: Callable[[Session], None]
) -> None:
    session = open_session(toy_vqa_config("threshold=quantile"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"quantile\(share=0\.1\) binarises maps of detectors, .* lxmert: leave it"):
        run(session)


@pytest.mark.parametrize("task", ["table", "figure", "evidence", "report", "merge", "structure", "check"])
def test_tasks_that_make_no_masks_refuse_it(composed: Compose, task: str) -> None:
    with pytest.raises(ConfigError, match=rf"threshold\.strategy=fixed: task={task} makes no masks"):
        tasks.run(composed(f"task={task}", "threshold=fixed"))
