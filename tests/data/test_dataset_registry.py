"""Dataset formats by name: what each opens, and that a new one is a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hetexp.data import registry
from hetexp.data.coco import ItemError
from hetexp.data.regions import Regions, write_compact
from hetexp.data.registry import DatasetFormat, DetectionData, get_dataset
from hetexp.data.vqa_dataset import VqaData
from hetexp.errors import ConfigError, DataError
from hetexp.files import file_hash


@pytest.fixture
def scenes(tmp_path: Path) -> dict[str, Any]:
    """A `data` configuration of three images."""
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 6} for i in range(3)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "found.json").write_text(json.dumps(content))
    return {"name": "mine", "root": str(tmp_path), "images": "pictures", "annotations": "found.json"}


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """A `data` configuration of 20 questions about two images, the second without regions."""
    items = [{"question_id": i, "img_id": f"image{i % 2}", "sent": "is it?", "label": {"yes": 1.0}} for i in range(20)]
    (tmp_path / "q.json").write_text(json.dumps(items))
    (tmp_path / "a.json").write_text(json.dumps(["yes", "no"]))
    boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
    write_compact(tmp_path / "r.safetensors", [("image0", Regions(np.ones((1, 4), np.float32), boxes, 8, 6))])
    files = {"questions": "q.json", "answers": "a.json", "regions": "r.safetensors"}
    return {"name": "mine", "root": str(tmp_path), "draw": None, **files}


def numbers(data: VqaData) -> list[int | str]:
    return [question.question_id for question in data.questions]


def test_coco_gives_what_detection_asks_for(scenes: dict[str, Any]) -> None:
    data: DetectionData = get_dataset("coco", "detection").open(scenes, limit=2, seed=0)
    assert [item.image_id for item in data.items] == [0, 1]
    first = data.items[0]
    assert data.load(first).size == (8, 6)
    assert len({data.item_digest(item) for item in data.items}) == 2
    assert data.dataset_digest() == file_hash(Path(scenes["root"]) / "found.json")
    assert len(data.coco.imgs) == 3


def test_lxmert_gives_what_question_answering_asks_for(asked: dict[str, Any]) -> None:
    data: VqaData = get_dataset("lxmert", "vqa").open(asked, limit=None, seed=0)
    assert numbers(data) == list(range(20))
    assert data.answers == ["yes", "no"]
    assert data.digest == file_hash(Path(asked["root"]) / "q.json")
    assert data.regions is not None
    assert data.regions.regions("image0").boxes.shape == (1, 4)
    with pytest.raises(ItemError, match="image1 has no regions"):
        data.regions.regions("image1")


def test_questions_are_drawn_before_the_limit_cuts(asked: dict[str, Any]) -> None:
    form = get_dataset("lxmert")
    drawn = numbers(form.open({**asked, "draw": 10}, limit=None, seed=1))
    assert len(set(drawn)) == 10
    assert numbers(form.open({**asked, "draw": 10}, limit=3, seed=1)) == drawn[:3]
    assert numbers(form.open({**asked, "draw": 10}, limit=None, seed=2)) != drawn


def test_missing_data_are_named(scenes: dict[str, Any], asked: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="nowhere"):
        get_dataset("coco").open({**scenes, "images": "nowhere"}, limit=None, seed=0)
    with pytest.raises(DataError, match=r"none\.tsv do not exist"):
        get_dataset("lxmert").open({**asked, "regions": "none.tsv"}, limit=None, seed=0)


def test_unknown_formats_list_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset format 'voc'\. Available: coco, lxmert, sentences$"):
        get_dataset("voc")
    with pytest.raises(ConfigError, match=r"format 'coco' are for detection.*needs vqa data: choose data=embedded_vqa"):
        get_dataset("coco", "vqa")


def test_a_new_format_is_a_file_and_a_line(
    tmp_path: Path, scenes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_format.py").write_text(
        "from hetexp.data.coco import CocoScenes\n"
        "def opened(data, *, limit, seed):\n"
        "    return CocoScenes(data['root'] + '/pictures', data['root'] + '/found.json', limit)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.DATASETS, "mine", DatasetFormat("detection", "my_format:opened", "my own"))
    assert len(get_dataset("mine").open(scenes, limit=1, seed=0).items) == 1


def test_every_opener_exists() -> None:
    for entry in registry.DATASETS.values():
        module, _, function = entry.opener.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
        assert entry.about


def test_the_table_loads_no_reader() -> None:
    code = "import sys, hetexp.data.registry; sys.exit(any(m in sys.modules for m in ('pycocotools', 'PIL', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
