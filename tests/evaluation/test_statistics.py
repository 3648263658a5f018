"""Areas against values known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetexp.errors import InputError
from hetexp.evaluation.statistics import trapezoid_auc


def test_trapezoid_on_uneven_steps() -> None:
    assert trapezoid_auc([0, 0.25, 1], [1.0, 0.5, 0.0]) == pytest.approx(0.25 * 0.75 + 0.75 * 0.25)
    curves = np.array([[2.0, 2.0, 2.0], [0.0, 0.25, 1.0]])
    assert trapezoid_auc([0, 0.25, 1], curves) == pytest.approx([2.0, 0.5])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0, 1, 1], [1, 2, 3], "strictly increasing"),
        ([0], [1], "strictly increasing"),
        ([0, 1], [1, 2, 3], "one per x"),
        ([0, 1], 3.0, "one per x"),
    ],
)
def test_trapezoid_refuses(x: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trapezoid_auc(x, y)
