"""Unsound annotations, checkpoints and command lines: each is refused, or used with a warning."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault import Fault, Row, data_fault, refused
from safetensors.torch import load, save
from toy_run import Toy

Annotation = dict[str, Any]


def annotation(change: Callable[[Annotation], Any]) -> Fault:
    """The second annotation is changed."""

    def damaged(content: bytes) -> bytes:
        tree = json.loads(content)
        change(tree["annotations"][1])
        return json.dumps(tree).encode()

    return data_fault("scenes/annotations.json", damaged)


def image(**entries: Any) -> Fault:
    """The second image's record is changed."""

    def damaged(content: bytes) -> bytes:
        tree = json.loads(content)
        tree["images"][1] |= entries
        return json.dumps(tree).encode()

    return data_fault("scenes/annotations.json", damaged)


def swapped(content: bytes) -> bytes:
    """Width and height of an image's record change places."""
    tree = json.loads(content)
    record = tree["images"][1]
    record["width"], record["height"] = record["height"], record["width"]
    return json.dumps(tree).encode()


def plural(content: bytes) -> bytes:
    """Half of the categories are called otherwise than the model's classes."""
    tree = json.loads(content)
    for category in tree["categories"][::2]:
        category["name"] += "s"
    return json.dumps(tree).encode()


def poisoned(content: bytes) -> bytes:
    """One weight of the checkpoint is NaN."""
    weights = load(content)
    weights["model.encoder.layers.0.fc1.weight"].view(-1)[0] = float("nan")
    return save(weights, metadata={"format": "pt"})


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def malicious(toy: Toy, name: str) -> Row:
    """A checkpoint that would run a command."""
    path = toy.folder / "malicious.pth"
    path.write_bytes(pickle.dumps({"model": _Malicious()}, protocol=2))
    done = toy.run(name, f"model.checkpoint={path}")
    ran = (toy.folder / "owned").exists()
    return Row(done.last, done.code, "NO" if ran else toy.equal(toy.run(name)))


def read_only(toy: Toy, name: str) -> Row:
    """A folder for results on a file system that is mounted read-only."""
    disk = toy.folder / f"{name}-disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return Row("not tried: mounting a small file system needs root", 0, "-")
    try:
        done = toy.run(name, f"paths.outputs={disk}/outputs", f"hydra.run.dir={disk}/run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return Row(done.last, done.code, toy.equal(toy.run(name)))


def folder_as_image(toy: Toy, name: str) -> Row:
    """task=explain of a folder."""
    done = toy.run(name, "task=explain", f"image={toy.folder}")
    return Row(done.last, done.code, toy.equal(toy.run(name)))


def odd_paths(toy: Toy, name: str) -> Row:
    """A folder whose name Hydra cannot read: the form that the message shows works."""
    folder = Path(f"{toy.folder}/{name}-ä, b=c d")
    folder.symlink_to(toy.scenes)
    first = toy.run(name, f"data.root={folder}")
    again = toy.run(name, f'data.root="{folder}"')
    return Row(first.last, first.code, toy.equal(again))


INPUTS: dict[str, Fault] = {
    "annotation with an empty segmentation": annotation(lambda a: a.update(segmentation=[])),
    "annotation with a polygon of two points": annotation(lambda a: a.update(segmentation=[[1, 1, 5, 5]])),
    "annotation with NaN in its polygon": annotation(lambda a: a.update(segmentation=[[1, 1, 9, float("nan"), 9, 9]])),
    "annotation with negative run lengths": annotation(
        lambda a: a.update(segmentation={"size": a["segmentation"]["size"], "counts": [10, -5, 20]})
    ),
    "annotation with run lengths of another size": annotation(lambda a: a["segmentation"].update(size=[5, 5])),
    "annotation with garbage for run lengths": annotation(lambda a: a["segmentation"].update(counts="@@@")),
    "annotation without an area": annotation(lambda a: a.update(area=None)),
    "annotation of no image": annotation(lambda a: a.update(image_id=99)),
    "annotation of no category": annotation(lambda a: a.update(category_id=99)),
    "two annotations of one id": annotation(lambda a: a.update(id=1)),
    "image outside the images folder": image(file_name="../annotations.json"),
    "image with an absolute path": image(file_name="/etc/hostname"),
    "two images of one id": image(id=0),
    "image with width and height exchanged": data_fault("scenes/annotations.json", swapped),
    "half of the categories renamed": data_fault("scenes/annotations.json", plural),
    "NaN in the checkpoint": data_fault("model/model.safetensors", poisoned),
    "checkpoint without preprocessor_config.json": data_fault("model/preprocessor_config.json", lambda b: None),
    "checkpoint that would run a command": malicious,
    "results on a read-only file system": read_only,
    "folder as image": folder_as_image,
    "folder with spaces, commas and equal signs": odd_paths,
    "key spelled wrong": refused("limt=10"),
    "choice spelled wrong": refused("model=dert"),
    "value without a closing bracket": refused("threshold.scale=[1.0,0.3"),
    "value without its key": refused("image=my", "photo.jpg"),
    "device of another name": refused("device=gpu"),
    "limit that is none": refused("limit=0"),
    "chunk size of 0": refused("chunk_size=0"),
    "infinite threshold": refused("threshold.scale=inf"),
    "metric that does not exist": refused("metrics=[nope]"),
    "plug-in that does not exist": refused("plugins=[nope_nope]"),
    "parameter that does not exist": refused("+parameters.gae.nope=1"),
    "task without its input": refused("task=explain"),
}
