"""Region features of images from several file formats, behind one interface, read image by image.

Formats: LXMERT's `obj36` TSV, VL-T5 style HDF5, npz (a folder, or one file) and the compact safetensors form that ships
with the package. Only the asked image's arrays are ever in memory.
"""

from __future__ import annotations

from pathlib import Path

from hetexp.data.obj36 import TsvRegions, write_tsv
from hetexp.data.region_formats import CompactRegions, Hdf5Regions, NpzRegions, write_compact
from hetexp.data.region_store import Regions, RegionStore
from hetexp.errors import DataError

__all__ = ["RegionStore", "Regions", "open_regions", "write_compact", "write_tsv"]


def open_regions(path: str | Path, cache_dir: str | Path | None = None) -> RegionStore:
    """Open region features by the kind of file: .tsv, .h5/.hdf5, .npz or a folder of them, .safetensors.

    The first opening of a TSV reads it through once and writes an index beside it, or in `cache_dir` if given.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"region features {path} do not exist: check the path, or download the data")
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind == ".tsv":
        return TsvRegions(path, None if cache_dir is None else Path(cache_dir))
    if kind in (".h5", ".hdf5"):
        return Hdf5Regions(path)
    if kind in (".npz", "folder"):
        return NpzRegions(path)
    if kind == ".safetensors":
        return CompactRegions(path)
    raise DataError(
        f"{path}: unknown kind of region file. Available: .tsv, .h5, .hdf5, .npz (or a folder), .safetensors"
    )
