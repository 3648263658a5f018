"""The page of embedded models, asked without a network, and pictures to give it."""

from __future__ import annotations

import base64
import io

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from hetexp.config import composed
from hetexp.experiments.engine.session import open_session
from hetexp.paths import asset
from hetexp.serve.app import create_app
from hetexp.serve.scenes import scenes_of
from hetexp.serve.session import Play

HOME = "http://127.0.0.1:8000"


def play_of(folder, *overrides):
    return Play(open_session(composed("task=serve", *overrides), folder))


def client_of(play):
    return TestClient(create_app(play, scenes_of(play.session)), base_url=HOME)


def scene(number: int) -> Image.Image:
    return Image.open(f"{asset('scenes')}/val/images/{number:06d}.jpg").convert("RGB")


def file_of(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def give(client, data: bytes, before: str | None = None):
    return client.post("/api/pictures", content=data, headers={} if before is None else {"X-Before": before})


def ask(client, token: str, route: str = "relevance", method: str = "ours_abs", **more):
    return client.post(f"/api/{route}", json={"method": method, **more}, headers={"X-Picture": token})


def numbers(entry) -> np.ndarray:
    """Relevance as the page reads it."""
    return np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(entry["shape"])
