"""task=serve: the page, on this machine alone."""

from __future__ import annotations

import logging
import socket

from omegaconf import DictConfig

from hetexp.config import without_data
from hetexp.errors import ConfigError
from hetexp.experiments.engine.session import open_session
from hetexp.serve.answers import TARGETS
from hetexp.serve.scenes import scenes_of
from hetexp.serve.session import Play

log = logging.getLogger("hetexp")

HOST = "127.0.0.1"  # nothing but this machine reaches it
GIVEN_ON_THE_PAGE = ("image", "question", "query", "answers", "text", "audio", "written")


def run_serve(cfg: DictConfig) -> None:
    """Serve the page until it is stopped.

    Raises:
        ConfigError: for a port that is taken, a model that is neither a detector nor answers questions, an input that
            is given on the page, or an installation without the extra `serve`.
    """
    try:
        import uvicorn

        from hetexp.serve.app import create_app
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise ConfigError("task=serve needs FastAPI and uvicorn: pip install 'hetexp[serve]'") from error
    given = [key for key in GIVEN_ON_THE_PAGE if cfg[key] is not None]
    if given:
        raise ConfigError(f"{given[0]}={cfg[given[0]]} is given on the page: leave it out with task=serve")
    if cfg.target.name not in TARGETS:
        raise ConfigError(f"target={cfg.target.name} is not on the page: begin with target={' or '.join(TARGETS)}")
    with listen(cfg.port) as opened:
        session = open_session(without_data(cfg))
        play = Play(session)
        app = create_app(play, scenes_of(session))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        log.info("open http://%s:%d in a browser; Ctrl-C ends it", *opened.getsockname())
        try:
            server.run(sockets=[opened])
        except KeyboardInterrupt:  # nothing was stored, and nothing is lost
            log.info("the page is closed")


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address; 0 takes any free port.

    Raises:
        ConfigError: for a port that does not exist, or is taken.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"port={port} must lie in 0 to {2**16 - 1}; 0 takes any free one")
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
    except OSError as error:
        opened.close()
        raise ConfigError(f"port={port} cannot be used ({error.strerror}): choose another, or port=0") from error
    return opened
