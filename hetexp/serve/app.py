"""The page's server: routes, limits of what comes in, and errors as the page shows them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hetexp.errors import DataError, HetexpError
from hetexp.serve import answers
from hetexp.serve.choices import Choice
from hetexp.serve.pictures import MOST_BYTES, decode, preview, shown_size
from hetexp.serve.scenes import Scene
from hetexp.serve.session import Gone, Play
from hetexp.serve.views import Asked

log = logging.getLogger("hetexp")

STATIC = Path(__file__).with_name("static")
HOSTS = ["127.0.0.1", "localhost"]  # a page elsewhere whose name was pointed at this machine says another
OWN = ("same-origin", "none")  # what a browser says of requests that this page, or the user, makes
# The page is its own files and pictures made in it; nothing is fetched from elsewhere and no other page may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Ask(BaseModel):
    """What the page asks for: something to explain, a method, and the number of a prediction."""

    model_config = ConfigDict(extra="forbid")
    method: str
    correction: str | None = None
    noise_link: str | None = None
    question: str = Field("", max_length=500)
    target: Literal["predicted", "other", "difference", "box"] = "predicted"
    other: int | None = Field(None, ge=0)
    side: Literal["left", "top", "right", "bottom"] = "left"
    row: int = Field(0, ge=0)

    @property
    def asked(self) -> Asked:
        """What is explained; parts that its target does not use are left out, so that it is computed once."""
        return Asked(
            self.question,
            self.target,
            self.other if self.target in ("other", "difference") else None,
            self.side if self.target == "box" else "left",
        )

    @property
    def choice(self) -> Choice:
        """By which method."""
        return Choice(self.method, self.correction, self.noise_link)


class AskMask(Ask):
    """The same with a threshold."""

    scale: float = Field(1.0, gt=0, le=10)


Token = Annotated[str, Header(alias="X-Picture", min_length=1, max_length=64)]
Before = Annotated[str | None, Header(alias="X-Before", max_length=64)]


async def uploaded(request: Request) -> bytes:
    """The body of a request, read no further than a picture may be long; it is never written to disk.

    Raises:
        DataError: for a longer one.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise DataError(f"the file has more than {MOST_BYTES // 2**20} MB: save the picture smaller")
    return bytes(data)


def create_app(play: Play, scenes: Sequence[Scene]) -> FastAPI:
    """The page and its routes, for one model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # the generated pages would fetch from elsewhere
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    facts = answers.about(play, scenes)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.headers.get("Sec-Fetch-Site", "none") not in OWN:
            return JSONResponse({"error": "only this page may ask for this"}, 403)
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Gone)
    async def gone(request: Request, error: Gone) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 410)

    @app.exception_handler(HetexpError)
    async def refused(request: Request, error: HetexpError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        return JSONResponse({"error": f"this request cannot be read: {faults}"}, 422)

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return facts

    @app.get("/api/scenes/{number}.jpg")
    def scene_picture(number: int) -> Response:
        return Response(preview(_scene(scenes, number).load()), media_type="image/jpeg")

    @app.post("/api/pictures")
    async def take(data: Annotated[bytes, Depends(uploaded)], before: Before = None) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            return answers.of_picture(*play.show(decode(data), before=before))

        return await run_in_threadpool(work)

    @app.post("/api/scenes/{number}")
    def take_scene(number: int, before: Before = None) -> dict[str, Any]:
        scene = _scene(scenes, number)
        return answers.of_picture(*play.show(scene.load(), scene.name, before))

    @app.post("/api/relevance")
    def relevance(ask: Ask, token: Token) -> dict[str, Any]:
        found = play.explain(token, ask.asked, ask.choice, ask.row)
        return answers.of_relevance(play, play.subject(token, ask.question), found)

    @app.post("/api/mask")
    def mask(ask: AskMask, token: Token) -> Response:
        size = shown_size(play.picture(token).size)
        found = play.explain(token, ask.asked, ask.choice, ask.row)
        return Response(answers.mask_png(play.mask(found, ask.scale, size)), media_type="image/png")

    @app.post("/api/archive")
    def archive(ask: AskMask, token: Token) -> Response:
        picture, found = play.picture(token), play.explain(token, ask.asked, ask.choice, ask.row)
        data = answers.archive(play, picture, ask.asked, found, ask.scale)
        return Response(data, media_type="application/octet-stream")

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _scene(scenes: Sequence[Scene], number: int) -> Scene:
    if not 0 <= number < len(scenes):
        raise DataError(f"scene {number} does not exist: there are {len(scenes)}")
    return scenes[number]
