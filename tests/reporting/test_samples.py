from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_helpers import detection_samples, write_explanation, write_samples

from hetexp.errors import DataError
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.figures import detections
from hetexp.reporting.samples import StoredExplanation, read_samples


def test_a_folder_holds_what_was_in_memory(tmp_path: Path) -> None:
    stored = detection_samples()["1"]
    write_explanation(tmp_path / "one", stored)
    found = StoredExplanation.read(tmp_path / "one")
    assert found.kind == "detection"
    assert found.info == stored.info
    assert found.methods == stored.methods
    assert found.image is not None
    assert np.array_equal(found.image, stored.ground)
    for one, other in ((found.relevance, stored.relevance), (found.masks, stored.masks), (found.levels, stored.levels)):
        assert set(one) == set(other)
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert found.mask("gae", 0.3).dtype == bool


def test_optional_files_may_be_absent(tmp_path: Path) -> None:
    full = detection_samples()["1"]
    write_explanation(tmp_path / "bare", StoredExplanation(None, full.info, full.relevance))
    found = StoredExplanation.read(tmp_path / "bare")
    assert found.image is None
    assert not found.masks
    assert not found.levels
    assert found.ground.shape == (96, 120, 3), "the network's input"
    with pytest.raises(DataError, match=r"bare has no mask gae@1$"):
        found.mask("gae", 1.0)


@pytest.mark.parametrize(
    ("info", "shape", "box"),
    [
        ({"image_size": [48, 60]}, (48, 60), [0.5, 0, 1, 1]),
        ({"input_size": [96, 120]}, (96, 120), [0.5, 0, 1, 1]),
        ({}, (128, 160), [80, 0, 160, 128]),
    ],
)
def test_grounds_without_an_image(info: dict[str, list[int]], shape: tuple[int, int], box: list[float]) -> None:
    found = StoredExplanation(None, {"kind": "detection", **info}, {"gae": np.zeros((1, 4, 5), np.float32)})
    assert found.ground.shape[:2] == shape
    assert found.pixels([0.5, 0, 1, 1]).tolist() == box


def test_missing_samples_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no samples of kind vqa .*python run\.py task=samples model=lxmert"):
        read_samples(tmp_path, "vqa")


def test_damaged_samples(outputs: Path) -> None:
    write_samples(outputs)
    folder = outputs / "samples" / "detection"
    (folder / "1" / "image.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"image\.png cannot be read"):
        detections.draw_relevance(read_samples(outputs, "detection").samples)
    (folder / "1" / "relevance.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"relevance\.safetensors cannot be read"):
        _ = read_samples(outputs, "detection").shown
    (folder / "1" / "info.json").unlink()
    with pytest.raises(DataError, match=r"damaged .*task=samples model=detr"):
        read_samples(outputs, "detection")
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_samples(outputs, "detection")


def test_what_is_lacking_is_named_with_the_command(outputs: Path) -> None:
    write_samples(outputs)
    sample = read_samples(outputs, "detection").samples[0]
    with pytest.raises(DataError, match=r"1 has no rollout: make the samples again with `python run\.py task=samples"):
        sample.need("rollout")
    with pytest.raises(DataError, match=r"has no mask gae@0\.7: .* threshold\.scale=0\.7`"):
        sample.mask("gae", 0.7)


def test_an_index_of_a_wrong_shape_is_damage(outputs: Path) -> None:
    write_samples(outputs)
    (outputs / "samples" / "vqa" / "index.json").write_text(json.dumps(["questions-0"]))
    with pytest.raises(DataError, match="damaged"):
        read_samples(outputs, "vqa")
