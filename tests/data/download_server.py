"""A server on this machine that misbehaves in every way that was thought of, and what it serves."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from hetexp.data.fetch import Patience

FAST = Patience(attempts=3, pause=0.001, connect_timeout=2, read_timeout=2)
BODY = bytes(range(256)) * 4096  # 1 MiB


class Server:
    """Serves `files`. `faults` are taken one per request: None, a status (text), or after how many bytes to hang up."""

    def __init__(self):
        self.files, self.faults, self.requests = {}, [], []
        self.ranges = self.tags = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request):
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

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def zipped(files):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


def picture(colour=0):
    memory = io.BytesIO()
    Image.new("RGB", (16, 12), (colour, 90, 30)).save(memory, "JPEG")
    return memory.getvalue()


def tree(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
