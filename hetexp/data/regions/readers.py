"""Region features in HDF5, npz and the compact form that ships with the package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hetexp.data.coco import ItemError
from hetexp.data.regions.interface import Regions, RegionStore
from hetexp.errors import DataError
from hetexp.files import atomic_file, atomic_write


class Hdf5Regions(RegionStore):
    """VL-T5 style HDF5: a group per image id with features, boxes (pixels), img_w, img_h and possibly obj_id."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import h5py
        except ImportError as error:
            raise DataError(f"{path} needs the package h5py: install hetexp with the extra 'hdf5'") from error
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(
                f"{path} is no readable HDF5 file ({error}): it may be cut short, fetch it again"
            ) from error

    @property
    def image_ids(self) -> list[str]:
        return list(self._file)

    def _has(self, img_id: str) -> bool:
        return img_id in self._file

    def _read(self, img_id: str) -> Regions:
        try:
            group = self._file[img_id]
            objects = group["obj_id"][()] if "obj_id" in group else None
            features, boxes, width, height = (group[key][()] for key in ("features", "boxes", "img_w", "img_h"))
            return self.from_pixels(img_id, features, boxes, width, height, objects)
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise self.damaged(img_id, error) from error


# What the arrays of an npz are called, by who wrote it.
_NPZ_KEYS = {
    "features": ("features", "x"),
    "boxes": ("boxes", "bbox"),
    "width": ("img_w", "image_w", "width"),
    "height": ("img_h", "image_h", "height"),
}


class NpzRegions(RegionStore):
    """npz arrays, boxes in pixels: a folder of `<image id>.npz`, or one file of arrays `<image id>/features`, ..."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._single: Mapping[str, Any] | None = None
        if path.is_dir():
            self._ids = sorted(file.stem for file in path.glob("*.npz"))
        else:
            self._single = _open_npz(path)
            self._ids = sorted({name.rsplit("/", 1)[0] for name in self._single if "/" in name})
        if not self._ids:
            raise DataError(
                f"{path} holds no regions: expected <image id>.npz files, or arrays <image id>/features, ..."
            )
        self._known_ids = frozenset(self._ids)

    @property
    def image_ids(self) -> list[str]:
        return self._ids

    def _has(self, img_id: str) -> bool:
        return img_id in self._known_ids

    def _read(self, img_id: str) -> Regions:
        try:
            if self._single is not None:
                return self._collect(img_id, self._single, f"{img_id}/")
            with _open_npz(self.path / f"{img_id}.npz") as arrays:
                return self._collect(img_id, arrays, "")
        except ItemError:
            raise
        except (DataError, KeyError, OSError, TypeError, ValueError, BadZipFile) as error:
            raise self.damaged(img_id, error) from error

    def _collect(self, img_id: str, arrays: Mapping[str, Any], prefix: str) -> Regions:
        found = {}
        for part, names in _NPZ_KEYS.items():
            present = [name for name in names if prefix + name in arrays]
            if not present:
                raise self.damaged(img_id, f"no array named {' or '.join(names)}")
            found[part] = arrays[prefix + present[0]]
        return self.from_pixels(img_id, **found, objects=arrays.get(f"{prefix}obj_id"))


class CompactRegions(RegionStore):
    """One safetensors file: features [N, D] and boxes [N, 4] (units of the sides) of all images one after another,
    offsets [images + 1]; beside it a JSON of the same stem with image_ids and sizes [[width, height], ...]."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names = path.with_suffix(".json")
        try:
            listed = json.loads(names.read_bytes())
            ids, sizes = [str(i) for i in listed["image_ids"]], [(int(w), int(h)) for w, h in listed["sizes"]]
            self._file = safe_open(path, framework="np")
            offsets = self._file.get_tensor("offsets")
            total, dims = self._file.get_slice("features").get_shape()
            boxes = self._file.get_slice("boxes").get_shape()
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise DataError(
                f"{path} with {names.name} beside it is no readable region file ({error!r}): fetch or write both again"
            ) from error
        if not (
            len(ids) == len(sizes) == len(offsets) - 1
            and offsets[0] == 0
            and offsets[-1] == total
            and (np.diff(offsets) >= 0).all()
            and list(boxes) == [total, 4]
            and dims > 0
        ):
            raise DataError(f"{path} and {names.name} do not belong together: numbers of images or regions differ")
        self._has_objects = "objects" in self._file.keys()  # noqa: SIM118 - not a mapping
        self._places = {img_id: (*map(int, offsets[i : i + 2]), *sizes[i]) for i, img_id in enumerate(ids)}

    @property
    def image_ids(self) -> list[str]:
        return list(self._places)

    def _has(self, img_id: str) -> bool:
        return img_id in self._places

    def _read(self, img_id: str) -> Regions:
        start, stop, width, height = self._places[img_id]

        def part(name: str) -> Any:
            return self._file.get_slice(name)[start:stop]

        return Regions(
            part("features").astype(np.float32),
            part("boxes").astype(np.float32),
            width,
            height,
            part("objects").astype(np.int64) if self._has_objects else None,
        )


def write_compact(path: str | Path, regions: Iterable[tuple[str, Regions]]) -> None:
    """Write the compact form (features as float16) and its JSON; each whole or not at all.

    Args:
        path: the safetensors file; the JSON has the same stem.
        regions: image ids and their regions.

    Raises:
        DataError: if a feature is no finite float16.
    """
    path = Path(path)
    items = list(regions)
    found = [region for _, region in items]
    tensors: dict[str, NDArray[Any]] = {
        "features": np.concatenate([region.features for region in found]).astype(np.float16),
        "boxes": np.concatenate([region.boxes for region in found]).astype(np.float32),
        "offsets": np.cumsum([0, *(len(region.boxes) for region in found)], dtype=np.int64),
    }
    if not np.isfinite(tensors["features"]).all():
        raise DataError("features hold NaN, infinity or values beyond float16 (65504): scale them before writing")
    classes = [region.objects for region in found if region.objects is not None]
    if len(classes) == len(found):
        tensors["objects"] = np.concatenate(classes)
    names = {"image_ids": [img_id for img_id, _ in items], "sizes": [[r.width, r.height] for r in found]}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)
    atomic_write(path.with_suffix(".json"), json.dumps(names) + "\n")


def _open_npz(path: Path) -> Any:
    try:
        with ZipFile(path):  # np.load would leave a damaged file open
            pass
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{path} is no readable npz file ({error}): it may be cut short, fetch it again") from error
