"""Which object a detection belongs to, what is measured of its map, and the controls beside the methods."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from run_helpers import Compose, run_to
from safetensors.numpy import load_file

from hetexp.errors import ConfigError
from hetexp.evaluation.bootstrap import resample_counts
from hetexp.evaluation.matches import Matches
from hetexp.experiments.detection.controls import CONTROLS, ControlInput
from hetexp.experiments.detection.ground_truth import GroundTruth
from hetexp.experiments.detection.scenes import ScoredImage, StoredImage

SIDE = 64


def annotation(number: int, category: int, x: int, y: int, w: int, h: int, crowd: int = 0) -> dict[str, Any]:
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number, "image_id": 1, "category_id": category, "bbox": [x, y, w, h], "area": w * h,
        "iscrowd": crowd, "segmentation": [polygon],
    }  # fmt: skip


@pytest.fixture
def coco() -> COCO:
    """Two objects of category 1 side by side, one of category 2 below."""
    found = COCO()
    found.dataset = {
        "images": [{"id": 1, "height": SIDE, "width": SIDE}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            annotation(1, 1, 0, 0, 32, 32), annotation(2, 1, 32, 0, 32, 32), annotation(3, 2, 0, 32, 64, 16)
        ],
    }  # fmt: skip
    found.createIndex()
    return found


# one on the second object, one of the third's category, one beside everything, one that was not kept
DETECTIONS: list[tuple[int, int | None, float]] = [(0, 1, 0.9), (1, 2, 0.8), (2, 1, 0.7), (-1, 1, 0.3)]
BOXES = [(0.75, 0.25, 0.5, 0.5), (0.5, 0.6, 1.0, 0.3), (0.5, 0.9, 0.1, 0.1), (0.25, 0.25, 0.5, 0.5)]


def scored(relevance: torch.Tensor) -> ScoredImage:
    return ScoredImage(1, (SIDE, SIDE), relevance, DETECTIONS, BOXES, lambda: pytest.fail("needs no masks"))


def test_detections_are_measured_on_the_object_they_overlap(coco: COCO) -> None:
    metric = GroundTruth(coco, [1])
    relevance = torch.zeros(3, 4, 4)
    relevance[0, 0, 0], relevance[0, 0, 2], relevance[0, 3, 0] = 1, 2, 1
    relevance[1] = 1
    metric.add(scored(relevance))
    found = {(i.panel, i.metric): dict(zip(i.items, i.values, strict=True)) for i in metric.items()}
    assert set(found["ground_truth", "AUROC"]) == {"1:0", "1:1"}, "the third detection overlaps no object"
    assert found["ground_truth", "energy_target"] == pytest.approx({"1:0": 0.5, "1:1": 0.25})
    assert found["ground_truth", "energy_sibling"] == pytest.approx({"1:0": 0.25, "1:1": 0})
    assert found["ground_truth", "energy_other"] == pytest.approx({"1:0": 0, "1:1": 0.5})
    assert set(found["ground_truth/with siblings", "AUROC"]) == {"1:0"}
    assert set(found["ground_truth/medium", "AUROC"]) == {"1:0", "1:1"}
    assert ("ground_truth/small", "AUROC") not in found


def test_a_map_that_is_zero_is_measured_like_any_other(coco: COCO) -> None:
    metric = GroundTruth(coco, [1])
    metric.add(scored(torch.zeros(3, 4, 4)))
    found = {i.metric: i.values for i in metric.items() if i.panel == "ground_truth"}
    assert found["AUROC"].tolist() == [0.5, 0.5]
    assert found["pointing_game"].tolist() == [0, 0]


def control_input(coco: COCO, picture: np.ndarray) -> ControlInput:
    image = StoredImage(1, (SIDE, SIDE), (SIDE, SIDE), DETECTIONS, BOXES)
    data: Any = SimpleNamespace(
        coco=coco, items=[SimpleNamespace(image_id=1)], load=lambda item: Image.fromarray(picture)
    )
    return ControlInput(image, (3, 4, 4), data)


def test_controls_by_hand(coco: COCO) -> None:
    picture = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    picture[:, 40:] = 255
    given = control_input(coco, picture)
    maps = {name: control.maps(given) for name, control in CONTROLS.items()}
    assert all(m.shape == (3, 4, 4) and m.dtype == torch.float32 for m in maps.values())
    assert maps["oracle"][0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert maps["oracle"][2].sum() == 0, "a detection without an object"
    assert torch.equal(maps["predicted_box"][0], maps["oracle"][0])
    assert maps["predicted_box"][1, 2].tolist() == pytest.approx([1.0] * 4)
    assert maps["edges"][0].argmax(dim=1).tolist() == [2] * 4
    centre = maps["centre_prior"][0]
    assert centre[1, 1] == centre[2, 2] == centre.max()
    assert centre[0, 0] == centre.min()


def test_a_run_leaves_its_matches_and_gives_intervals(toy_config: Compose, tmp_path: Path) -> None:
    given = ("method=gae", "metrics=[segm]", "controls=[predicted_box]", "bootstrap=50")
    frame = run_to(toy_config(*given), tmp_path / "run")
    assert set(frame["method"]) == {"gae", "predicted_box"}
    files = pd.read_parquet(tmp_path / "run" / "items" / "matches.parquet")
    units = pd.read_parquet(tmp_path / "run" / "items" / "units.parquet")
    assert len(units) == 7
    for row in files.itertuples():
        matches = Matches.from_arrays(load_file(tmp_path / "run" / "items" / row.file))
        assert matches.images.astype(str).tolist() == units["image"].tolist()
        known = frame[(frame["method"] == row.method) & frame["value"].notna()].set_index("metric")
        found = matches.estimates(resample_counts(7, 50, 1234), list(known.index))
        for metric, estimate in found.items():
            assert estimate.value == pytest.approx(known.loc[metric, "value"])
            assert estimate.interval() == pytest.approx(tuple(known.loc[metric, ["ci_low", "ci_high"]]))


def test_without_resamples_there_are_no_intervals(toy_config: Compose, tmp_path: Path) -> None:
    frame = run_to(toy_config("method=gae", "bootstrap=0"), tmp_path / "run")
    assert frame["ci_low"].isna().all()
    assert frame["value"].notna().any()


def test_unknown_controls_list_the_known_ones(toy_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown control 'box'.*centre_prior, predicted_box, edges, oracle"):
        run_to(toy_config("controls=[box]"), tmp_path / "run")
