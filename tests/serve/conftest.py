"""The page of the embedded detector, and of the embedded model that answers questions."""

from __future__ import annotations

import pytest
from serve_helpers import client_of, play_of


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    return play_of(tmp_path_factory.mktemp("detector"), "model=detr")


@pytest.fixture(scope="session")
def answerer(tmp_path_factory):
    return play_of(tmp_path_factory.mktemp("answerer"), "model=lxmert")


@pytest.fixture(scope="session")
def page(detector):
    return client_of(detector)


@pytest.fixture(scope="session")
def questions(answerer):
    return client_of(answerer)
