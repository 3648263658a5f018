"""One computing thread, as tests of tiny models are faster so and leave the machine to others; and two tiny models."""

from __future__ import annotations

import pytest
import torch
from explained import answerer, detector

from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def detr() -> DetrAdapter:
    return detector()


@pytest.fixture(scope="module")
def lxmert() -> LxmertAdapter:
    return answerer()
