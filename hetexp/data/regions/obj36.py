"""LXMERT's released bottom-up-attention features: one image a line, tab-separated, arrays in base64 (`obj36` TSV).

The val2014 file has 40,504 lines of about 0.4 MB. An index of line starts is written once; then any image is one seek.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hetexp.data.coco import ItemError
from hetexp.data.regions.interface import Regions, RegionStore
from hetexp.errors import DataError
from hetexp.files import atomic_file

log = logging.getLogger(__name__)

FIELDS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)


class TsvRegions(RegionStore):
    """Random access into an `obj36` TSV; its index lies beside it (or in `cache_dir`) and follows its changes."""

    def __init__(self, path: Path, cache_dir: Path | None = None) -> None:
        super().__init__(path)
        self._index_file = (cache_dir or path.parent) / f"{path.name}.index.json"
        try:
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
            offsets = self._load_index(state)
            if offsets is None:
                offsets = self._scan()
                self._save_index(state, offsets)
        except OSError as error:
            raise DataError(f"region features {path} cannot be read: {error.strerror}") from error
        self._offsets = offsets

    @property
    def image_ids(self) -> list[str]:
        return list(self._offsets)

    def _has(self, img_id: str) -> bool:
        return img_id in self._offsets

    def _line(self, img_id: str) -> bytes:
        try:
            with self.path.open("rb") as file:  # opened anew each time, so that forked workers share no position
                file.seek(self._offsets[img_id])
                return file.readline()
        except OSError as error:
            raise ItemError(f"regions of image {img_id} in {self.path} cannot be read: {error.strerror}") from error

    def _content(self, img_id: str) -> bytes:
        return self._line(img_id)

    def _read(self, img_id: str) -> Regions:
        fields = self._line(img_id).rstrip(b"\r\n").split(b"\t")
        if len(fields) != len(FIELDS):
            raise self.damaged(img_id, f"{len(fields)} fields in its line, expected {len(FIELDS)}")
        row = dict(zip(FIELDS, fields, strict=True))
        try:
            if row["img_id"].decode() != img_id:
                raise self.damaged(img_id, "its line begins with another image: the file has changed, delete the index")
            count = int(row["num_boxes"])
            boxes = _array(row["boxes"], "<f4").reshape(count, 4)
            features = _array(row["features"], "<f4")
            features = features.reshape(count, len(features) // count if count else 0)
            objects = _array(row["objects_id"], "<i8").reshape(count)
            return self.from_pixels(img_id, features, boxes, int(row["img_w"]), int(row["img_h"]), objects)
        except (ValueError, binascii.Error) as error:
            raise self.damaged(img_id, error) from error

    def _scan(self) -> dict[str, int]:
        """Start of each line by image id, line by line."""
        log.info("indexing %s (once)", self.path)
        offsets: dict[str, int] = {}
        position = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{self.path}, line {number}"
                img_id, tab, _ = line.partition(b"\t")
                if not tab or not img_id or len(img_id) > 200:
                    raise DataError(f"{where}: expected {len(FIELDS)} tab-separated fields beginning with an image id")
                name = img_id.decode("utf-8", "replace")
                if name in offsets:
                    raise DataError(f"{where}: image {name} occurs twice")
                offsets[name] = position
                position += len(line)
        if not offsets:
            raise DataError(f"{self.path} is empty: fetch the file again")
        return offsets

    def _load_index(self, state: list[int]) -> dict[str, int] | None:
        try:
            stored = json.loads(self._index_file.read_bytes())
            return dict(stored["offsets"]) if stored["size_and_mtime_ns"] == state else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _save_index(self, state: list[int], offsets: dict[str, int]) -> None:
        try:
            with atomic_file(self._index_file) as temporary:
                temporary.write_text(json.dumps({"size_and_mtime_ns": state, "offsets": offsets}), encoding="utf-8")
        except OSError as error:  # a read-only data folder costs a scan per run, nothing else
            log.warning("the index of %s cannot be kept (%s); name a writable cache folder", self.path, error.strerror)


def write_tsv(path: str | Path, regions: Iterable[tuple[str, Regions]]) -> None:
    """Write regions in the released format; confidences and attributes, which no model reads, as 1 and 0.

    Args:
        path: the TSV; whole or not at all.
        regions: image ids and their regions, written as they come.
    """
    with atomic_file(Path(path)) as temporary, temporary.open("wb") as file:
        for img_id, found in regions:
            count = len(found.boxes)
            sides = np.array([found.width, found.height, found.width, found.height], dtype=np.float32)
            objects = np.zeros(count) if found.objects is None else found.objects
            row = {
                "img_id": img_id.encode(),
                "img_h": str(found.height).encode(),
                "img_w": str(found.width).encode(),
                "objects_id": _text(objects, "<i8"),
                "objects_conf": _text(np.ones(count), "<f4"),
                "attrs_id": _text(np.zeros(count), "<i8"),
                "attrs_conf": _text(np.ones(count), "<f4"),
                "num_boxes": str(count).encode(),
                "boxes": _text(found.boxes * sides, "<f4"),
                "features": _text(found.features, "<f4"),
            }
            file.write(b"\t".join(row[name] for name in FIELDS) + b"\n")


def _array(text: bytes, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype)


def _text(values: NDArray[Any], dtype: DTypeLike) -> bytes:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes())
