"""A server on this machine that misbehaves in every way that was thought of, and what it serves."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from hetexp.data.download.fetch import RetryPolicy

FAST = RetryPolicy(attempts=3, pause=0.001, connect_timeout=2, read_timeout=2)
BODY = bytes(range(256)) * 4096  # 1 MiB


class Server:
    """Serves `files`. `faults` are taken one per request: None, a status (text), or after how many bytes to hang up."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str | int | None] = []
        self.requests: list[tuple[str, str | None, str | None]] = []  # name, Range, If-Range
        self.ranges = self.tags = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, asked = request.path.lstrip("/"), request.headers.get("Range")
        self.requests.append((name, asked, request.headers.get("If-Range")))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, str) or name not in self.files:
            request.send_error(int(fault or 404))
            return
        body = self.files[name]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        if asked and self.ranges and request.headers.get("If-Range") in (None, tag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        if self.tags:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        end = len(body) if fault is None else start + fault
        request.wfile.write(body[start:end])

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def zipped(files: Mapping[str, bytes | str]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def picture(colour: int = 0) -> bytes:
    memory = io.BytesIO()
    Image.new("RGB", (16, 12), (colour, 90, 30)).save(memory, "JPEG")
    return memory.getvalue()


def tree(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
