"""The misbehaving server, and a source that it serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from download_server import Server, md5, picture, zipped

from hetexp.data.download.sources import Product, Source


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.close()


@pytest.fixture
def images(server: Server) -> Source:
    """A source like val2017: three images in a zip."""
    archive = zipped({"val2017/": b"", **{f"val2017/{i}.jpg": picture(i) for i in range(3)}})
    server.files["val2017.zip"] = archive
    return Source(
        "coco_val2017_images",
        "http://images.example/zips/val2017.zip",
        (Product("val2017", "*.jpg", 3),),
        "images",
        len(archive),
        md5(archive),
    )
