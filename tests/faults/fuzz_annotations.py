"""Damaged annotation files, scored with a tiny detector; pycocotools alone is the second opinion."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import mutated_json
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from toy_run import write_scenes
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp import config
from hetexp.evaluation.coco import SEGM_THRESHOLDS
from hetexp.evaluation.masks import encode, finite_maps, segment
from hetexp.experiments.detection.attribution import DETECTIONS
from hetexp.experiments.detection.run import run
from hetexp.experiments.engine.session import Session, open_session

GOLDEN = Path(__file__).parents[1] / "golden" / "detr" / "modelA"
IMAGES = 6
PER_IMAGE = 3  # annotations
METRICS = ("AP", "AP_medium", "AP_large", "AR", "AR_medium", "AR_large")


class Toy:
    """A tiny detector and images whose annotations are some of its own masks, so that it scores well."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "scenes"
        self.file = self.root / "annotations.json"
        shutil.copytree(GOLDEN, folder / "model")
        DetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder / "model")
        write_scenes(self.root, IMAGES)
        self.adapter = self._session().adapter
        session = self.session()
        run(session)
        self.content = json.loads(self.file.read_text(encoding="utf-8"))
        self.found = self._found(session)
        self.content["annotations"] = self._annotations()
        self.file.write_text(json.dumps(self.content), encoding="utf-8")

    def _session(self) -> Session:
        overrides = ["data=coco", f"data.root={self.root}", f"model.checkpoint={self.folder / 'model'}"]
        overrides += ["model.score_threshold=0.1", "method=ours_abs", "chunk_size=1", "progress=false", "threads=1"]
        overrides += ["bootstrap=0", "metrics=[segm]", f"paths.outputs={self.folder / 'outputs'}"]
        return open_session(config.composed(*overrides), self.folder / "run")

    def session(self) -> Session:
        """A new run with the model that is already loaded."""
        session = self._session()
        session.__dict__["adapter"] = self.adapter  # a cached property
        return session

    def number(self) -> dict[str, float | None]:
        """The segmentation metrics of a run."""
        results = run(self.session())
        return {
            result.metric: result.value for result in results if result.panel == "segm" and result.metric in METRICS
        }

    def _found(self, session: Session) -> dict[str, list[dict[str, Any]]]:
        """By file name what the detector says: label, score and mask."""
        names = {image["id"]: image["file_name"] for image in self.content["images"]}
        spec, found = session.methods[0], {}
        for chunk in session.chunk_names:
            tables = session.store.read(chunk, DETECTIONS).tables
            tensors = session.store.read(chunk, spec.unit, spec.settings).tensors
            for row in tables["images"].itertuples():
                maps, _ = finite_maps(tensors[str(row.image_id)])
                sizes = (int(row.input_height), int(row.input_width)), (int(row.height), int(row.width))
                codes = encode(segment(maps, 1.0, *sizes, session.cfg.threshold.upsample))
                of_image = tables["detections"].query(f"image_id == {row.image_id} and target >= 0")
                found[names[row.image_id]] = [
                    {"label": self.adapter.labels[int(d.label)], "score": float(d.score), "mask": codes[int(d.target)]}
                    for d in of_image.itertuples()
                ]
        return found

    def _annotations(self) -> list[dict[str, Any]]:
        """Polygons, compressed and plain run lengths about some masks of each image; each third a crowd."""
        numbers = {category["name"]: category["id"] for category in self.content["categories"]}
        out: list[dict[str, Any]] = []
        for image in self.content["images"]:
            for place, found in enumerate(self.found[image["file_name"]][:PER_IMAGE]):
                mask = rle.decode(found["mask"])
                mask[: 4 * (place + 1)] = 0  # not quite what was detected
                code = rle.encode(np.asfortranarray(mask))
                x, y, w, h = rle.toBbox(code).tolist()
                edges = np.flatnonzero(np.diff(np.r_[0, mask.ravel(order="F"), 0]))
                counts = np.diff(np.r_[0, edges, mask.size])
                forms: tuple[Any, ...] = (
                    [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    {"size": code["size"], "counts": code["counts"].decode()},
                    {"size": code["size"], "counts": counts[: len(counts) - (counts[-1] == 0)].tolist()},
                )
                out.append(
                    {
                        "id": len(out) + 1,
                        "image_id": image["id"],
                        "category_id": numbers[found["label"]],
                        "segmentation": forms[place],
                        "area": float(rle.area(code)),
                        "bbox": [x, y, w, h],
                        "iscrowd": int(place == 2),
                    }
                )
        return out


class Annotations(Toy):
    """Annotation files."""

    def damage(self, rng: Random) -> bytes:
        """Write a damaged annotation file."""
        content = mutated_json(rng, self.content)
        self.file.write_bytes(content)
        return content

    def confirmed(self, content: bytes, number: dict[str, float | None]) -> bool:
        """Whether pycocotools says so of the file, its annotations numbered from 1 on."""
        return same(alone(json.loads(content), self.found), number)


def same(one: dict[str, float | None], other: dict[str, float | None]) -> bool:
    """Whether metrics agree but for rounding."""
    return one.keys() == other.keys() and all(
        (a is None and b is None) or (a is not None and b is not None and math.isclose(a, b, abs_tol=1e-9))
        for a, b in ((one[key], other[key]) for key in one)
    )


def alone(content: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> dict[str, float | None]:
    """The metrics of known detections as pycocotools computes them from the content of an annotation file."""
    truth, guesses = COCO(), COCO()
    truth.dataset = content | {"annotations": [a | {"id": n} for n, a in enumerate(content["annotations"], 1)]}
    numbers = {category["name"]: category["id"] for category in content["categories"]}
    detections = [
        {"image_id": image["id"], "category_id": numbers[d["label"]], "score": d["score"], "segmentation": d["mask"]}
        for image in sorted(content["images"], key=lambda image: image["id"])
        for d in found[image["file_name"]]
        if d["label"] in numbers
    ]
    guesses.dataset = content | {
        "annotations": [
            d | {"id": n, "iscrowd": 0, "area": float(rle.area(d["segmentation"]))} for n, d in enumerate(detections, 1)
        ]
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        guesses.createIndex()
        scored = COCOeval(truth, guesses, "segm")
        scored.params.iouThrs, scored.params.maxDets = np.array(SEGM_THRESHOLDS), [100]
        scored.evaluate()
        scored.accumulate()
    values = {}
    for kind, of_kind in (("AP", scored.eval["precision"]), ("AR", scored.eval["recall"])):
        for area, name in ((0, kind), (2, f"{kind}_medium"), (3, f"{kind}_large")):
            counted = of_kind[..., area, 0]
            counted = counted[counted > -1]
            values[name] = 100 * float(counted.mean()) if counted.size else None
    return values
