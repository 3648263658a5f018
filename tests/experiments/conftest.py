"""A handful of random scenes with a tiny random DETR: enough to run every stage in a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image
from pycocotools import mask as rle
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp import cli  # noqa: F401  (registers schema and resolvers)
from hetexp.paths import conf_dir

GOLDEN = Path(__file__).parents[1] / "golden"
N_IMAGES = 7


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(GOLDEN / "detr" / "modelA", folder)
    DetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    return folder


def write_scenes(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(N_IMAGES):
        width, height = [(160, 120), (120, 160), (128, 128)][i % 3]
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
        images.append({"id": i, "file_name": f"{i:03d}.png", "width": width, "height": height})
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[20:118, 10:110] = 1
        code = rle.encode(mask)
        annotations.append(
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1 + i % 8,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "area": int(mask.sum()),
                "bbox": [10, 20, 100, 98],
                "iscrowd": 0,
            }
        )
    categories = [{"id": i + 1, "name": f"c{i}"} for i in range(8)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))


@pytest.fixture
def toy_scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "scenes")
    return tmp_path / "scenes"


Compose = Callable[..., DictConfig]


@pytest.fixture
def composed() -> Compose:
    """Compose the real configuration with overrides."""

    def build(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return build


@pytest.fixture
def toy_config(composed: Compose, toy_model: Path, toy_scenes: Path, tmp_path: Path) -> Compose:
    """The toy run's configuration; further overrides are appended."""

    def build(*overrides: str) -> DictConfig:
        return composed(
            "data=coco",
            f"data.root={toy_scenes}",
            f"model.checkpoint={toy_model}",
            "model.keep=0.2",
            "chunk_size=2",
            "progress=false",
            f"paths.outputs={tmp_path / 'outputs'}",
            *overrides,
        )

    return build
