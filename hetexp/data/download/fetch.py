"""One file over HTTP: resumed where it broke off, retried with growing pauses, checked against its published hash."""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from hetexp.errors import DownloadError
from hetexp.files import file_hash

RESERVE = 100_000_000  # bytes that stay free on the disk

_BLOCK = 1 << 16
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class RetryPolicy:
    """When a download gives up.

    Attributes:
        attempts: attempts in a row that brought no new byte.
        pause: seconds before the second of them; doubled from one to the next.
        connect_timeout: seconds until the server must have accepted the connection.
        read_timeout: seconds without a byte until the connection counts as broken.
    """

    attempts: int = 6
    pause: float = 1.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0


class _Broken(Exception):
    """This attempt failed; another may succeed."""


def fetch(url: str, target: Path, retry: RetryPolicy | None = None, on_progress: OnProgress | None = None) -> None:
    """Download `url` to `target`, which appears only when it is whole; `target`.part waits for a later call otherwise.

    A part is continued (HTTP Range, guarded by If-Range) if the server can and its file has not changed, and begun
    anew otherwise.

    Args:
        url: address of the file.
        target: where the file goes.
        retry: when to give up.
        on_progress: called with the bytes held and the total, None where the server does not tell it.

    Raises:
        DownloadError: if the server refuses, the attempts are used up or the disk is full; the part is kept.
    """
    retry = retry or RetryPolicy()
    part, notes = _part(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    tries, held, reason = 0, _held(part), ""
    with requests.Session() as session:
        while True:
            try:
                _attempt(session, url, part, notes, retry, on_progress or (lambda held, total: None))
                break
            except (
                _Broken,
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                reason = str(error)
            except requests.RequestException as error:
                raise DownloadError(f"{url} cannot be requested ({error}): check the address") from error
            except OSError as error:
                raise _disk_error(error, part) from error
            tries = 1 if _held(part) > held else tries + 1
            held = _held(part)
            if tries >= retry.attempts:
                raise DownloadError(
                    f"{url} could not be completed: {reason} ({tries} attempts in a row brought nothing, {held:,} "
                    "bytes are kept): check the network and run the same command again, it continues there"
                )
            time.sleep(retry.pause * 2 ** (tries - 1))
    part.replace(target)
    notes.unlink(missing_ok=True)


def kept_bytes(target: Path) -> int:
    """How much of a target an earlier call left behind."""
    return _held(_part(target)[0])


def discard(target: Path) -> None:
    """Remove a target, its part and its notes."""
    for file in (target, *_part(target)):
        file.unlink(missing_ok=True)


def verify(path: Path, expected: str | None, url: str) -> str:
    """Compare a file with its published hash.

    Args:
        path: the file; removed if it is not the published one.
        expected: ``md5:hex``, ``sha256:hex`` or ``sha256-prefix:hex``; None if none is published.
        url: where the file came from, for the message.

    Returns:
        ``algorithm:hex`` of the file.

    Raises:
        DownloadError: if the hashes differ.
    """
    kind, _, value = (expected or "sha256:").partition(":")
    algorithm = kind.removesuffix("-prefix")
    found = file_hash(path, algorithm)
    if not found.startswith(value):
        path.unlink()
        raise DownloadError(
            f"{url}: wrong checksum, {kind} is {found}, expected {value}. The file was removed: run the same command "
            "again; if it happens again, the address serves another file than the published one"
        )
    return f"{algorithm}:{found}"


def require_space(folder: Path, needed: int, what: str) -> None:
    """Make sure that a number of bytes fit on the folder's disk with some to spare.

    Raises:
        DownloadError: if they do not.
    """
    free = shutil.disk_usage(folder).free
    if needed + RESERVE > free:
        raise DownloadError(
            f"not enough disk space in {folder} for {what}: {needed / 1e9:.2f} GB needed and {RESERVE / 1e9:.1f} GB "
            f"kept free, {free / 1e9:.2f} GB there: free some, or choose another data.root"
        )


def _attempt(
    session: requests.Session, url: str, part: Path, notes: Path, retry: RetryPolicy, on_progress: OnProgress
) -> None:
    noted = _read_notes(notes, url)
    held = _held(part) if noted else 0
    if noted and held and held == noted.get("total"):
        return  # whole already; only the renaming was missed
    headers = {"Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
        if noted.get("validator"):
            headers["If-Range"] = noted["validator"]
    timeout = (retry.connect_timeout, retry.read_timeout)
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        start, total = _place(response, url, held, part)
        require_space(part.parent, max(0, (total or 0) - start), url)
        if start == 0:
            tag = response.headers.get("ETag", "")
            validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
            part.write_bytes(b"")
            notes.write_text(json.dumps({"url": url, "validator": validator, "total": total}), encoding="utf-8")
        with part.open("ab") as file:
            on_progress(start, total)
            for block in response.iter_content(_BLOCK):
                file.write(block)
                on_progress(file.tell(), total)
    if total is not None and _held(part) != total:
        raise _Broken(f"the server closed the connection at {_held(part):,} of {total:,} bytes")


def _place(response: requests.Response, url: str, held: int, part: Path) -> tuple[int, int | None]:
    """Where the body begins in the file, and the file's total size."""
    status = response.status_code
    if status in _RETRIED_STATUS:
        raise _Broken(f"the server answered {status} {response.reason}")
    if status == 416 and held:
        part.unlink()  # longer than the server's file: begin anew
        raise _Broken("the kept part does not fit the server's file any more")
    if status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != held:
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range than asked for")
        return held, None if span[2] == "*" else int(span[2])
    if status != 200:
        raise DownloadError(
            f"{url}: the server answered {status} {response.reason}: the address may have moved, look for the file by "
            "its name and put it below data.root yourself"
        )
    length = response.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _part(target: Path) -> tuple[Path, Path]:
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


def _held(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _read_notes(notes: Path, url: str) -> dict[str, Any]:
    """What is known of a part; empty if it is of another address or the notes are gone."""
    try:
        noted = json.loads(notes.read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) and noted.get("url") == url else {}


def _disk_error(error: OSError, part: Path) -> DownloadError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else f"{error.strerror or error}"
    return DownloadError(f"{part} cannot be written: {what}. What was fetched is kept: free space and run it again")
