"""Region features of images from several file formats, behind one interface, read image by image.

Formats: LXMERT's `obj36` TSV, VL-T5 style HDF5, npz (a folder, or one file) and the compact safetensors form that ships
with the package. Only the asked image's arrays are ever in memory.
"""

from __future__ import annotations

from pathlib import Path

from hetexp.data.regions.interface import Regions, RegionStore
from hetexp.data.regions.obj36 import TsvRegions, write_tsv
from hetexp.data.regions.readers import CompactRegions, Hdf5Regions, NpzRegions, write_compact
from hetexp.errors import DataError

__all__ = ["RegionStore", "Regions", "open_regions", "write_compact", "write_tsv"]


def open_regions(path: str | Path, cache_dir: str | Path | None = None) -> RegionStore:
    """Open region features by the kind of file: .tsv, .h5/.hdf5, .npz or a folder of them, .safetensors.

    Args:
        path: the file or folder.
        cache_dir: where the index of a TSV goes, beside it if None; the first opening reads the TSV through to make it.

    Raises:
        DataError: if the path does not exist, is of another kind or cannot be read.
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
