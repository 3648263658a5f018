from __future__ import annotations

import pytest
import torch

from hetexp.errors import ConfigError, InputError
from hetexp.targets import Difference, Logit, Ratio, RelativeDifference, RunnerUp, automatic

LOGITS = torch.tensor([1.0, -2.0, 4.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (Logit(), 4.0),
        (Logit(1), -2.0),
        (Difference(0, 1), 3.0),
        (Ratio(2, 1), -2.0),
        (RelativeDifference(2, 3), 7.0),
        (RunnerUp("difference"), 3.0),
        (RunnerUp("ratio"), 4.0),
        (RunnerUp("relative_difference"), 3.0),
    ],
)
def test_values(target: Logit, value: float) -> None:
    assert float(target(LOGITS)) == value


def test_ratio_and_relative_difference_share_their_gradient() -> None:
    x = LOGITS.clone().requires_grad_()
    (a,) = torch.autograd.grad(Ratio(0, 2)(x), x)
    (b,) = torch.autograd.grad(RelativeDifference(0, 2)(x), x)
    assert torch.allclose(a, b, rtol=0, atol=1e-15)
    assert a.tolist() == pytest.approx([1 / 4, 0, -1 / 16, 0])


@pytest.mark.parametrize("target", [Logit(4), Logit(-1), Difference(0, 9), Ratio(9, 0), RelativeDifference(0, 4)])
def test_classes_that_do_not_exist(target: Logit) -> None:
    with pytest.raises(InputError, match="does not exist: expected 0 to 3"):
        target(LOGITS)


def test_automatic() -> None:
    assert automatic("logit") == Logit()
    assert automatic("ratio") == RunnerUp("ratio")
    with pytest.raises(ConfigError, match=r"unknown target 'margin'.*logit, difference, ratio, relative_difference"):
        automatic("margin")
