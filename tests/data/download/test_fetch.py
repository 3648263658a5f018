"""Fetching one file from a server on this machine that misbehaves in every way that was thought of."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from download_server import BODY, FAST, Server, tree

from hetexp.data.download import fetch as fetching
from hetexp.data.download.fetch import fetch
from hetexp.errors import DownloadError


def test_a_broken_connection_is_continued_and_not_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["f"] = BODY
    server.faults = [300_000, 400_000]
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == BODY
    assert tree(tmp_path) == ["f"]
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for _, asked, _ in server.requests]
    assert len(starts) == 3
    assert starts[0] == 0
    assert 200_000 < starts[1] <= 300_000
    assert starts[1] + 300_000 < starts[2] <= starts[1] + 400_000
    assert all(tag for _, _, tag in server.requests[1:]), "If-Range guards the continuation"


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.files["f"] = BODY
    server.faults = [300_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"3 attempts in a row .* bytes are kept.*continues there"):
        fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert not (tmp_path / "f").exists()
    kept = (tmp_path / "f.part").stat().st_size
    assert kept > 200_000
    server.faults, server.requests = [], []
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert [asked for _, asked, _ in server.requests] == [f"bytes={kept}-"]
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize(("ranges", "tags"), [(False, True), (False, False), (True, False)])
def test_servers_without_ranges_or_tags(server: Server, tmp_path: Path, ranges: bool, tags: bool) -> None:
    server.files["f"], server.ranges, server.tags = BODY, ranges, tags
    server.faults = [300_000]
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["f"], server.faults = BODY, [300_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/f", tmp_path / "f", FAST)
    for changed in (BODY[::-1], BODY[:1000]):
        server.files["f"] = changed
        fetch(f"{server.url}/f", tmp_path / "f", FAST)
        assert (tmp_path / "f").read_bytes() == changed


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.files["f"], server.tags, server.faults = BODY, False, [300_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/f", tmp_path / "f", FAST)
    server.files["f"] = BODY[:1000]
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == BODY[:1000]


def test_a_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files |= {"f": BODY, "g": BODY[::-1]}
    server.faults = [300_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/f", tmp_path / "f", FAST)
    fetch(f"{server.url}/g", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_whole_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"abc")
    (tmp_path / "f.part.json").write_text(json.dumps({"url": f"{server.url}/f", "validator": None, "total": 3}))
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert server.requests == []


def test_busy_servers_are_asked_again_and_pauses_grow(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    server.files["f"], server.faults = b"abc", ["503", "500"]
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert pauses == [0.001, 0.002]
    server.faults = ["503"] * 3
    with pytest.raises(DownloadError, match="answered 503"):
        fetch(f"{server.url}/f", tmp_path / "g", FAST)


def test_refusals_are_final_and_name_address_and_status(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/gone: the server answered 404 Not Found: .*put it below data\.root"):
        fetch(f"{server.url}/gone", tmp_path / "f", FAST)
    assert len(server.requests) == 1
    with pytest.raises(DownloadError, match="check the address"):
        fetch("nonsense://x/y", tmp_path / "f", FAST)
    assert tree(tmp_path) == []


def test_no_server_at_all(server: Server, tmp_path: Path) -> None:
    gone = server.url
    server.http.server_close()
    with pytest.raises(DownloadError, match="3 attempts in a row"):
        fetch(f"{gone}/f", tmp_path / "f", FAST)


def test_silence_ends_with_the_timeout(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wake = threading.Event()
    monkeypatch.setattr(server, "answer", lambda request: wake.wait(5))
    with pytest.raises(DownloadError, match="timed out"):
        fetch(f"{server.url}/f", tmp_path / "f", replace(FAST, attempts=1, read_timeout=0.1))
    wake.set()


def test_progress_ends_at_the_total(server: Server, tmp_path: Path) -> None:
    server.files["f"] = BODY
    seen: list[tuple[int, int | None]] = []
    fetch(f"{server.url}/f", tmp_path / "f", FAST, lambda held, total: seen.append((held, total)))
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)


def test_full_disk_before_and_while_writing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["f"] = BODY
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 10**12, fetching.RESERVE + 1000))
        with pytest.raises(DownloadError, match="not enough disk space"):
            fetch(f"{server.url}/f", tmp_path / "f", FAST)

    def full(held: int, total: int | None) -> None:
        if held > 500_000:
            raise OSError(28, "No space left on device")

    with pytest.raises(DownloadError, match="the disk is full"):
        fetch(f"{server.url}/f", tmp_path / "f", FAST, full)
    kept = (tmp_path / "f.part").stat().st_size
    assert kept > 400_000
    server.requests = []
    fetch(f"{server.url}/f", tmp_path / "f", FAST)
    assert server.requests[0][1] == f"bytes={kept}-"
    assert (tmp_path / "f").read_bytes() == BODY
