"""What a user may hand over by mistake: each is refused with what to do."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hetexp
from hetexp import overrides
from hetexp.data.pictures import open_image
from hetexp.errors import CheckpointError, ConfigError, InputError
from hetexp.experiments.engine.session import pick_device
from hetexp.overrides import check_writable

MODEL = Path(__file__).parent / "golden" / "detr" / "modelA"


def test_a_missing_preprocessor_is_named_and_its_default_offered(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "my model")
    detr = hetexp.load_model("detr", tmp_path / "my model")
    picture = Image.new("RGB", (64, 48))
    with pytest.raises(ConfigError, match=r"my model/preprocessor_config\.json is missing") as caught:
        detr.prepare([picture])
    command = str(caught.value).partition("default there with ")[2]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, capture_output=True)
    inputs = hetexp.load_model("detr", tmp_path / "my model").prepare([picture])
    assert inputs["pixel_values"].shape[1] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("RGB", (64, 48)), r"prepare\(\[image\]\)"),
        ([Image.new("L", (64, 48))], r"got one in mode L: convert it"),
        ([Image.new("RGBA", (64, 48))], r"got one in mode RGBA: convert it"),
        ([torch.zeros(3, 48, 64)], r"got a Tensor"),
        (["photo.jpg"], r"got a str"),
    ],
)
def test_what_is_no_list_of_rgb_images(given: Any, message: str, tmp_path: Path) -> None:
    detr = hetexp.load_model("detr", MODEL)
    detr.processor = detr.processor_class()
    with pytest.raises(InputError, match=message):
        detr.prepare(given)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder: give one image file, e\.g\. image=.*photo\.jpg"):
        open_image(tmp_path)


def test_a_device_of_another_name() -> None:
    with pytest.raises(ConfigError, match=r"device='gpu' .* try device=auto, cpu, cuda or cuda:1"):
        pick_device("gpu")


class Malicious:
    """A pickle that writes a file when it is loaded without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_a_malicious_checkpoint_is_neither_run_nor_recommended(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "detr.pth"
    content = {"model": Malicious(tmp_path / "owned")}
    if kind == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(
        CheckpointError, match=r"was refused and nothing of it was run: .* asks for posix\.system"
    ) as caught:
        hetexp.load_model("detr", path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(["paths.outputs=new/deep", "hydra.run.dir=${paths.outputs}/x", "method=gae"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"paths\.store=file/store cannot be a folder, since .*file is a file"):
        check_writable(["paths.store=file/store"])
    monkeypatch.setattr(overrides.os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(ConfigError, match=r"paths\.outputs=outputs cannot be written, since .* is read-only"):
        check_writable(["method=gae"])
    with pytest.raises(ConfigError, match=r"paths\.outputs=other/x cannot be written"):
        check_writable(["paths.outputs=other/x"])
