"""A handful of random scenes with a tiny random DETR: enough to run every stage in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image
from pycocotools import mask as rle
from run_helpers import Compose
from transformers import BertTokenizer
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp import config
from hetexp.data.regions import Regions, write_compact

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


@pytest.fixture
def composed() -> Compose:
    """Compose the real configuration with overrides."""
    return config.composed


@pytest.fixture
def toy_config(composed: Compose, toy_model: Path, toy_scenes: Path, tmp_path: Path) -> Compose:
    """The toy run's configuration; further overrides are appended."""

    def build(*overrides: str) -> DictConfig:
        return composed(
            "data=coco",
            f"data.root={toy_scenes}",
            f"model.checkpoint={toy_model}",
            "model.score_threshold=0.2",
            "chunk_size=2",
            "progress=false",
            f"paths.outputs={tmp_path / 'outputs'}",
            *overrides,
        )

    return build


WORDS = "is there a zebra dog cat and or what color the umbrella how many birds are no picture left of".split()


@pytest.fixture(scope="session")
def toy_vqa_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden random LXMERT with a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("vqa_model") / "tiny"
    shutil.copytree(GOLDEN / "lxmert" / "model", folder)
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS]
    BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}, do_lower_case=True).save_pretrained(folder)
    return folder


@pytest.fixture
def toy_vqa(tmp_path: Path) -> Path:
    """Nine questions over the toy scenes with 12 regions each."""
    root = tmp_path / "vqa"
    write_scenes(root)
    rng = np.random.default_rng(1)
    answers = [f"a{i}" for i in range(15)]
    (root / "answers.json").write_text(json.dumps(answers))
    sentences = [
        "is there a zebra",
        "what color is the umbrella",
        "how many birds are there",
        "is there a dog and a cat",
    ]
    items = []
    for i in range(9):
        sentence = sentences[i % 4]
        items.append(
            {
                "question_id": i,
                "img_id": f"{i % N_IMAGES:03d}",
                "sent": sentence,
                "question_type": "exist" if i % 2 else "color",
                "label": {answers[(3 * i + k) % 15]: 1.0 for k in range(6)},
                "words": [[len(sentence) - 5, len(sentence)]],
                "objects": [i % N_IMAGES + 1] if i % 3 else [],
            }
        )
    (root / "questions.json").write_text(json.dumps(items))
    regions = []
    for i in range(N_IMAGES):
        corners = np.sort(rng.random((12, 2, 2)), axis=1).astype(np.float32)
        boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1)
        regions.append((f"{i:03d}", Regions(rng.normal(size=(12, 24)).astype(np.float32), boxes, 128, 128)))
    write_compact(root / "regions.safetensors", regions)
    return root


@pytest.fixture
def toy_vqa_config(composed: Compose, toy_vqa_model: Path, toy_vqa: Path, tmp_path: Path) -> Compose:
    """The toy VQA run's configuration; further overrides are appended."""

    def build(*overrides: str) -> DictConfig:
        return composed(
            "model=lxmert",
            f"data.root={toy_vqa}",
            "data.questions=questions.json",
            "data.answers=answers.json",
            "data.regions=regions.safetensors",
            "data.images=images",
            "data.annotations=annotations.json",
            f"model.checkpoint={toy_vqa_model}",
            "chunk_size=4",
            "batch_size=3",
            "progress=false",
            "bootstrap=50",
            f"paths.outputs={tmp_path / 'outputs'}",
            *overrides,
        )

    return build
