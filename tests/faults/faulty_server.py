"""A loopback server with faults, for `run_faults.py`."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MEMBER = b"a line of region features\n" * 4000

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def server(body: bytes, faults: list[Answer]) -> Iterator[str]:
    """A loopback server that answers every request with `body`, the first ones with faults."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (faults.pop(0) if faults else whole)(self, body)

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


def whole(request: BaseHTTPRequestHandler, body: bytes, part: float = 1.0) -> None:
    """The asked range, or only the first part of it before hanging up."""
    start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    request.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
    request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    rest = body[start:]
    request.wfile.write(rest[: int(part * len(rest))])


def hang_up(request: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(request, body, 0.4)


def status(code: int) -> Answer:
    return lambda request, body: request.send_error(code)


def other(content: bytes) -> Answer:
    return lambda request, body: whole(request, content)


def archive(folder: Path) -> bytes:
    path = folder / "val2014_obj36.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("val2014_obj36.tsv", MEMBER)
    return path.read_bytes()
