"""Downloading data sets: archives, receipts and what `check` says of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from download_server import FAST, Server, picture, tree, zipped

from hetexp.data.download import fetch as fetching
from hetexp.data.download.check import CheckRow, check
from hetexp.data.download.receipts import WORK
from hetexp.data.download.retrieve import Download, download_dataset, download_source
from hetexp.data.download.sources import DOWNLOADS, SOURCES, Product, Source
from hetexp.data.vqa import read_questions
from hetexp.errors import ConfigError, DownloadError


def run(source: Source, root: Path, server: Server, **kwargs: Any) -> Download:
    options: dict[str, Any] = {"retry": FAST, "progress": False} | kwargs
    return download_source(source.name, root, server.url, {source.name: source}, **options)


def test_an_archive_is_laid_out_as_released_and_fetched_once(server: Server, images: Source, tmp_path: Path) -> None:
    result = run(images, tmp_path, server)
    assert result == Download(images.name, "downloaded", images.digest)
    assert tree(tmp_path) == [f"{WORK}/coco_val2017_images.json", *(f"val2017/{i}.jpg" for i in range(3))]
    server.requests = []
    assert run(images, tmp_path, server) == Download(images.name, "present", images.digest)
    assert server.requests == []
    (tmp_path / "val2017/1.jpg").unlink()
    assert run(images, tmp_path, server).status == "downloaded"
    assert (tmp_path / "val2017/1.jpg").read_bytes() == picture(1)


def test_data_that_the_user_brought_are_left_alone(server: Server, images: Source, tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    for i in range(3):
        (tmp_path / f"val2017/own{i}.jpg").write_bytes(picture())
    assert run(images, tmp_path, server).status == "present"
    assert server.requests == []


def test_wrong_checksum_leaves_nothing_and_a_rerun_starts_anew(server: Server, images: Source, tmp_path: Path) -> None:
    good = server.files["val2017.zip"]
    server.files["val2017.zip"] = good[:-1] + b"x"
    with pytest.raises(DownloadError, match=r"wrong checksum, md5 is [0-9a-f]{32}, expected [0-9a-f]{32}"):
        run(images, tmp_path, server)
    assert tree(tmp_path) == []
    server.files["val2017.zip"] = good
    assert run(images, tmp_path, server).status == "downloaded"


@pytest.mark.parametrize("kept", [10, 500])
def test_truncated_zip_without_a_known_hash(server: Server, images: Source, tmp_path: Path, kept: int) -> None:
    server.files["val2017.zip"] = server.files["val2017.zip"][:kept]
    with pytest.raises(DownloadError, match="is damaged"):
        run(replace(images, digest=None), tmp_path, server)
    assert tree(tmp_path) == []


def test_damaged_member_is_noticed_and_no_half_file_takes_its_place(
    server: Server, images: Source, tmp_path: Path
) -> None:
    body = bytearray(server.files["val2017.zip"])
    place = body.index(b"val2017/2.jpg") + 60
    body[place] ^= 0xFF
    server.files["val2017.zip"] = bytes(body)
    with pytest.raises(DownloadError, match="is damaged"):
        run(replace(images, digest=None), tmp_path, server)
    assert "val2017/2.jpg" not in tree(tmp_path)


def link_archive() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        entry = zipfile.ZipInfo("val2017/0.jpg")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return memory.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        zipped({"../evil.jpg": b"x", "val2017/0.jpg": b"x"}),
        zipped({"/evil.jpg": b"x"}),
        zipped({"val2017/../../evil.jpg": b"x"}),
        zipped({"..\\evil.jpg": b"x"}),
        zipped({"C:\\evil.jpg": b"x"}),
        link_archive(),
    ],
)
def test_archives_that_reach_outside_are_refused_whole(
    server: Server, images: Source, tmp_path: Path, archive: bytes
) -> None:
    server.files["val2017.zip"] = archive
    root = tmp_path / "inner" / "root"
    with pytest.raises(DownloadError, match=r"a link or a path outside its folder: nothing was extracted"):
        run(replace(images, digest=None, products=(Product("val2017", "*.jpg", 1),)), root, server)
    assert tree(tmp_path) == [f"inner/root/{WORK}/val2017.zip"]


def test_another_archive_than_the_published_one(server: Server, images: Source, tmp_path: Path) -> None:
    server.files["val2017.zip"] = zipped({"val2017/0.jpg": picture()})
    with pytest.raises(DownloadError, match=r"holds 1 file\(s\) named \*\.jpg, expected 3"):
        run(replace(images, digest=None), tmp_path, server)


def test_interrupted_extraction_continues(
    server: Server, images: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []

    def copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
        copies.append(target.name)
        if len(copies) == 2:
            raise OSError(28, "No space left on device")
        target.write(source.read())

    with monkeypatch.context() as patch:
        patch.setattr("hetexp.data.download.archive.shutil.copyfileobj", copy)
        with pytest.raises(DownloadError, match=r"cannot be extracted .*No space left"):
            run(images, tmp_path, server)
    assert f"{WORK}/val2017.zip" in tree(tmp_path)
    assert f"{WORK}/coco_val2017_images.json" not in tree(tmp_path)
    server.requests = []
    assert run(images, tmp_path, server).status == "downloaded"
    assert server.requests == [], "the archive was there already"
    assert (tmp_path / "val2017/2.jpg").read_bytes() == picture(2)


def test_no_room_for_extraction(
    server: Server, images: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = [10**12, 10**12, fetching.RESERVE + 10]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, free.pop(0)))
    with pytest.raises(DownloadError, match=r"not enough disk space .*extracting val2017\.zip"):
        run(images, tmp_path, server)
    assert tree(tmp_path) == [f"{WORK}/val2017.zip"]


def test_a_plain_file_without_a_hash_is_recorded(server: Server, tmp_path: Path) -> None:
    source = replace(SOURCES["lxmert_valid"], url="http://x.example/vqa/valid.json")
    server.files["valid.json"] = b"<html>not here</html>"
    with pytest.raises(DownloadError, match="no valid JSON"):
        run(source, tmp_path, server)
    assert tree(tmp_path) == []
    server.files["valid.json"] = b"[]"
    digest = f"sha256:{hashlib.sha256(b'[]').hexdigest()}"
    assert run(source, tmp_path, server) == Download("lxmert_valid", "downloaded", digest)
    assert json.loads((tmp_path / WORK / "lxmert_valid.json").read_text())["digest"] == digest
    assert (tmp_path / "vqa/valid.json").read_bytes() == b"[]"


def test_hash_prefix_of_a_checkpoint(server: Server, tmp_path: Path) -> None:
    server.files["detr-r50-e632da11.pth"] = b"weights"
    source = replace(SOURCES["detr_r50"], size=None)
    with pytest.raises(DownloadError, match=r"sha256-prefix is [0-9a-f]{64}, expected e632da11"):
        run(source, tmp_path, server)
    fitting = replace(source, digest=f"sha256-prefix:{hashlib.sha256(b'weights').hexdigest()[:8]}")
    assert run(fitting, tmp_path, server).status == "downloaded"
    assert (tmp_path / "checkpoints/detr-r50-e632da11.pth").read_bytes() == b"weights"


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown source 'x'\. Available: coco_val2017_images"):
        download_source("x", tmp_path)
    with pytest.raises(ConfigError, match=r"unknown data set 'x'\. Available: coco_val2017, vqa_v2"):
        download_dataset("x", tmp_path)


def test_root_that_cannot_be_written(server: Server, images: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="choose another"):
        run(images, tmp_path / "file", server)


# data sets


def vqa_sources(server: Server) -> dict[str, Source]:
    """All of vqa_v2, small; the question host is down."""
    question = {"question_id": 1, "image_id": 42, "question": "Is it?"}
    annotation = {"question_id": 1, "image_id": 42, "answers": [{"answer": "yes"}] * 10}
    server.files |= {
        "trainval_label2ans.json": b'["yes", "no"]',
        "v2_Questions_Val_mscoco.zip": zipped(
            {"v2_OpenEnded_mscoco_val2014_questions.json": json.dumps({"questions": [question]})}
        ),
        "v2_Annotations_Val_mscoco.zip": zipped(
            {"v2_mscoco_val2014_annotations.json": json.dumps({"annotations": [annotation]})}
        ),
        "val2014_obj36.zip": zipped({"mscoco_imgfeat/val2014_obj36.tsv": b"a\tb\n"}),
    }
    return {name: replace(SOURCES[name], size=None, digest=None) for name in DOWNLOADS["vqa_v2"]}


def test_valid_json_is_built_when_its_host_is_down(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = vqa_sources(server)
    results = download_dataset("vqa_v2", tmp_path, server.url, sources, FAST, progress=False)
    assert [r.status for r in results] == ["downloaded", "downloaded", "downloaded", "built", "downloaded"]
    assert "building valid.json" in caplog.text
    (question,) = read_questions(tmp_path / "vqa/valid.json")
    assert question.img_id == "COCO_val2014_000000000042"
    assert question.label == {"yes": 1.0}
    again = download_dataset("vqa_v2", tmp_path, server.url, sources, FAST, progress=False)
    assert {r.status for r in again} == {"present"}
    assert {row.status for row in check(tmp_path, ["vqa_v2"], sources)} == {"ok"}


def test_a_failure_keeps_what_came_before(server: Server, tmp_path: Path) -> None:
    sources = vqa_sources(server)
    del server.files["val2014_obj36.zip"]
    with pytest.raises(DownloadError, match=r"val2014_obj36\.zip: the server answered 404"):
        download_dataset("vqa_v2", tmp_path, server.url, sources, FAST, progress=False)
    assert (tmp_path / "vqa/valid.json").is_file()


def test_table_is_consistent() -> None:
    assert {name for names in DOWNLOADS.values() for name in names} == set(SOURCES)
    assert len({source.file_name for source in SOURCES.values()}) == len(SOURCES), "names are kept apart on a mirror"
    for source in SOURCES.values():
        assert source.is_archive or len(source.products) == 1
        assert source.digest is None or source.digest.split(":")[0] in {"md5", "sha256", "sha256-prefix"}


# check


def test_check_tells_ok_missing_and_damaged_apart(server: Server, images: Source, tmp_path: Path) -> None:
    table = {**SOURCES, images.name: images}

    def row(deep: bool = False) -> CheckRow:
        return next(r for r in check(tmp_path, ["coco_val2017"], table, deep) if r.item == images.name)

    assert (row().status, row().detail) == ("missing", "nothing there")
    run(images, tmp_path, server)
    assert row().status == "ok"
    assert str(images.digest) in row().detail
    target = tmp_path / "val2017/1.jpg"
    whole = target.read_bytes()
    target.write_bytes(whole[:-10])
    assert row().status == "damaged"
    assert "1 of another size than recorded, first val2017/1.jpg" in row().detail
    target.unlink()
    assert row().status == "missing"
    target.write_bytes(whole[:200] + bytes(len(whole) - 200))
    assert row().status == "ok", "the size is right"
    target.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    assert row(deep=True).status == "damaged"
    assert "download" in row(deep=True).fix


def test_check_without_receipts(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/a.jpg").write_bytes(picture())
    file = tmp_path / "annotations/instances_val2017.json"
    for content, status, detail in (
        (b"{}", "ok", "hash unknown"),
        (b"{", "damaged", "not valid JSON"),
        (b"", "damaged", "is empty"),
    ):
        file.write_bytes(content)
        annotations, images = check(tmp_path, ["coco_val2017"])
        assert (annotations.status, images.status) == (status, "missing")
        assert detail in annotations.detail
        assert "1 of 5,000 files" in images.detail
    assert len(check(tmp_path)) == len(SOURCES)
