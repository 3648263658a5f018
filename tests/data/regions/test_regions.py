"""Region files: all formats give the same regions, damage stays with its image, and memory holds one image."""

from __future__ import annotations

import base64
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hetexp.data.coco import ItemError
from hetexp.data.regions import Regions, open_regions, write_compact, write_tsv
from hetexp.errors import DataError

Items = list[tuple[str, Regions]]
Writer = Callable[[Path, Items], Path]

IDS = ["COCO_val2014_000000000009", "COCO_val2014_000000000042", "COCO_val2014_000000000003"]


def some_regions(seed: int, count: int = 5, dims: int = 8) -> Regions:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    features = (
        rng.standard_normal((count, dims)).astype(np.float16).astype(np.float32)
    )  # the compact form keeps float16
    return Regions(features, corners.astype(np.float32), 640 - seed, 480, rng.integers(0, 1600, count))


@pytest.fixture
def items() -> Items:
    return [(img_id, some_regions(i, count=5 + i)) for i, img_id in enumerate(IDS)]


def pixels(found: Regions) -> NDArray[np.float32]:
    return found.boxes * np.array([found.width, found.height] * 2, dtype=np.float32)


def as_tsv(folder: Path, items: Items) -> Path:
    write_tsv(folder / "val2014_obj36.tsv", items)
    return folder / "val2014_obj36.tsv"


def as_hdf5(folder: Path, items: Items) -> Path:
    with h5py.File(folder / "val.h5", "w") as file:
        for img_id, found in items:
            group = file.create_group(img_id)
            group["features"], group["boxes"] = found.features, pixels(found)
            group["img_w"], group["img_h"], group["obj_id"] = found.width, found.height, found.objects
    return folder / "val.h5"


def as_npz_folder(folder: Path, items: Items) -> Path:
    (folder / "npz").mkdir()
    for img_id, found in items:
        arrays: dict[str, Any] = {"x": found.features, "bbox": pixels(found), "obj_id": found.objects}
        arrays |= {"image_w": found.width, "image_h": found.height, "info": np.array({"never": "read"}, dtype=object)}
        np.savez(folder / "npz" / f"{img_id}.npz", **arrays)
    return folder / "npz"


def as_npz_file(folder: Path, items: Items) -> Path:
    arrays: dict[str, Any] = {}
    for img_id, found in items:
        arrays |= {f"{img_id}/features": found.features, f"{img_id}/boxes": pixels(found)}
        arrays |= {f"{img_id}/img_w": found.width, f"{img_id}/img_h": found.height, f"{img_id}/obj_id": found.objects}
    np.savez(folder / "val.npz", **arrays)
    return folder / "val.npz"


def as_compact(folder: Path, items: Items) -> Path:
    write_compact(folder / "regions.safetensors", items)
    return folder / "regions.safetensors"


FORMATS = [as_tsv, as_hdf5, as_npz_folder, as_npz_file, as_compact]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_regions(tmp_path: Path, items: Items, write: Writer) -> None:
    store = open_regions(write(tmp_path, items))
    assert len(store) == 3
    assert sorted(store.image_ids) == sorted(IDS)
    assert IDS[0] in store
    assert "elsewhere" not in store
    for img_id, expected in reversed(items):
        found = store.regions(img_id)
        assert np.array_equal(found.features, expected.features)
        assert np.allclose(found.boxes, expected.boxes, atol=1e-6)
        assert found.objects is not None
        assert expected.objects is not None
        assert np.array_equal(found.objects, expected.objects)
        assert (found.width, found.height) == (expected.width, expected.height)
        assert found.features.dtype == found.boxes.dtype == np.float32
        assert found.features.flags.writeable
        assert found.boxes.flags.writeable
    with pytest.raises(ItemError, match="image elsewhere has no regions in"):
        store.regions("elsewhere")
    with pytest.raises(ItemError, match="elsewhere"):
        store.digest("elsewhere")


@pytest.mark.parametrize("write", FORMATS)
def test_digest_changes_with_the_image_only(tmp_path: Path, items: Items, write: Writer) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = open_regions(write(tmp_path / "one", items))
    items[1][1].features[0, 0] += 1
    second = open_regions(write(tmp_path / "two", items))
    assert first.digest(IDS[0]) == second.digest(IDS[0])
    assert first.digest(IDS[1]) != second.digest(IDS[1])
    assert len({first.digest(i) for i in IDS}) == 3


@pytest.mark.parametrize("write", FORMATS)
def test_bad_regions_are_item_errors_naming_the_image(tmp_path: Path, items: Items, write: Writer) -> None:
    bad = {}
    for name, change in {
        "nan": lambda r: r.features.__setitem__((2, 3), np.nan),
        "inf": lambda r: r.features.__setitem__((2, 3), np.inf),
        "left": lambda r: r.boxes.__setitem__((1, 0), -0.1),
        "below": lambda r: r.boxes.__setitem__((1, 3), 1.1),
        "turned": lambda r: r.boxes.__setitem__(1, [0.5, 0.5, 0.4, 0.6]),
        "void": lambda r: r.boxes.__setitem__((1, 0), np.nan),
    }.items():
        found = some_regions(7)
        change(found)
        bad[name] = found
    bad["none"] = Regions(np.zeros((0, 8), np.float32), np.zeros((0, 4), np.float32), 640, 480, np.zeros(0, np.int64))
    if write is as_compact:  # the writer refuses these two
        for name in ("nan", "inf"):
            with pytest.raises(DataError, match="float16"):
                write_compact(tmp_path / "x.safetensors", [(name, bad.pop(name))])
    store = open_regions(write(tmp_path, [*bad.items(), *items]))
    for name in bad:
        message = {"none": "0 regions", "nan": "region 2 hold NaN", "inf": "region 2 hold NaN"}.get(name, "box 1 is")
        with pytest.raises(ItemError, match=f"image {name} .*{message}"):
            store.regions(name)
    assert len(store.regions(IDS[0]).boxes) == 5, "a good image after bad ones"


def test_boxes_may_overshoot_by_rounding(tmp_path: Path) -> None:
    found = some_regions(1)
    found.boxes[0] = [0, 0, 1 + 5e-6, 1]
    assert len(open_regions(as_compact(tmp_path, [("a", found)])).regions("a").boxes) == 5


def damaged_line(line: bytes, how: str) -> bytes:
    fields = line.rstrip(b"\n").split(b"\t")
    if how == "short":
        return b"\t".join(fields[:6]) + b"\n"
    if how == "base64":
        fields[9] = b"!!" + fields[9][2:]
    elif how == "length":
        fields[9] = base64.b64encode(base64.b64decode(fields[9])[:-4])
    elif how == "boxes":
        fields[8] = base64.b64encode(base64.b64decode(fields[8])[:-16])
    elif how == "count":
        fields[7] = b"many"
    elif how == "size":
        fields[1] = b"0"
    return b"\t".join(fields) + b"\n"


@pytest.mark.parametrize("how", ["short", "base64", "length", "boxes", "count", "size"])
def test_a_damaged_tsv_line_costs_only_its_image(tmp_path: Path, items: Items, how: str) -> None:
    path = as_tsv(tmp_path, items)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = damaged_line(lines[1], how)
    path.write_bytes(b"".join(lines))
    store = open_regions(path)
    with pytest.raises(ItemError, match=f"image {IDS[1]} .*damaged"):
        store.regions(IDS[1])
    assert len(store.regions(IDS[0]).boxes) == 5
    assert len(store.regions(IDS[2]).boxes) == 7


def test_tsv_cut_short_loses_the_last_image_only(tmp_path: Path, items: Items) -> None:
    path = as_tsv(tmp_path, items)
    path.write_bytes(path.read_bytes()[:-50])
    store = open_regions(path)
    with pytest.raises(ItemError, match=IDS[2]):
        store.regions(IDS[2])
    assert len(store.regions(IDS[1]).boxes) == 6


def test_index_is_kept_reused_and_remade(tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_tsv(tmp_path, items)
    open_regions(path)
    index = tmp_path / "val2014_obj36.tsv.index.json"
    assert index.is_file()
    with monkeypatch.context() as patch:
        patch.setattr("hetexp.data.regions.obj36.TsvRegions._scan", lambda self: pytest.fail("scanned again"))
        assert len(open_regions(path)) == 3
    write_tsv(path, items[::-1])
    os.utime(path, ns=(1, 1))
    store = open_regions(path)
    assert store.image_ids == IDS[::-1]
    assert len(store.regions(IDS[0]).boxes) == 5
    index.write_text("{")
    assert len(open_regions(path)) == 3
    other = tmp_path / "cache" / "deep"
    open_regions(path, other)
    assert (other / index.name).is_file()


def test_index_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, items: Items, caplog: pytest.LogCaptureFixture
) -> None:
    path = as_tsv(tmp_path, items)
    (tmp_path / "file").write_text("")
    assert len(open_regions(path, tmp_path / "file")) == 3
    assert "cannot be kept" in caplog.text


def test_a_file_that_changed_under_an_open_store_is_noticed(tmp_path: Path, items: Items) -> None:
    path = as_tsv(tmp_path, items)
    store = open_regions(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"x" + b"".join(lines)[1:])
    with pytest.raises(ItemError, match="begins with another image"):
        store.regions(IDS[0])


def test_tsv_is_never_all_in_memory(tmp_path: Path) -> None:
    found = some_regions(0, count=36, dims=2048)
    path = tmp_path / "big.tsv"
    write_tsv(path, ((f"image{i}", found) for i in range(60)))
    assert path.stat().st_size > 20e6
    tracemalloc.start()
    store = open_regions(path)
    for img_id in store.image_ids:
        store.regions(img_id)
        store.digest(img_id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_damaged_files_are_refused(tmp_path: Path, items: Items) -> None:
    for name, content, message in (
        ("a.tsv", b"", "is empty"),
        ("b.tsv", b"no tabs here\n", r"line 1: expected 10 tab-separated fields"),
        ("c.h5", b"nothing", "no readable HDF5"),
        ("d.npz", b"nothing", "no readable npz"),
        ("e.safetensors", b"nothing", "no readable region file"),
        ("f.pkl", b"", "unknown kind of region file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_regions(tmp_path / name)
    with pytest.raises(DataError, match="do not exist"):
        open_regions(tmp_path / "none.tsv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no regions"):
        open_regions(tmp_path / "empty")
    twice = tmp_path / "twice.tsv"
    write_tsv(twice, [items[0], items[0]])
    with pytest.raises(DataError, match=r"line 2: image .* occurs twice"):
        open_regions(twice)


def test_a_truncated_npz_costs_only_its_image(tmp_path: Path, items: Items) -> None:
    folder = as_npz_folder(tmp_path, items)
    path = folder / f"{IDS[1]}.npz"
    path.write_bytes(path.read_bytes()[:200])
    np.savez(folder / "partial.npz", x=np.zeros((1, 2)))
    store = open_regions(folder)
    with pytest.raises(ItemError, match=IDS[1]):
        store.regions(IDS[1])
    with pytest.raises(ItemError, match="no array named boxes or bbox"):
        store.regions("partial")
    assert len(store.regions(IDS[0]).boxes) == 5


def test_compact_files_must_belong_together(tmp_path: Path, items: Items) -> None:
    path = as_compact(tmp_path, items)
    names = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**names, "image_ids": names["image_ids"][:2]}))
    with pytest.raises(DataError, match="do not belong together"):
        open_regions(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"regions\.json beside it"):
        open_regions(path)
