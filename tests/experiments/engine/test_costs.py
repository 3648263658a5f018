"""What an explanation costs: passes are counted right, and methods that do not apply are left out with their reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from run_helpers import Compose, run_to
from tiny import picture, question, tiny_detr, tiny_lxmert

from hetexp.attribution.attention import Rollout
from hetexp.attribution.attribute import attribute, observe
from hetexp.attribution.beyond_intuition import BeyondIntuition
from hetexp.attribution.d_rise import DRise
from hetexp.attribution.integrated_gradients import IntegratedGradients
from hetexp.attribution.registry import get_method
from hetexp.attribution.smooth_grad import SmoothGrad
from hetexp.errors import ConfigError
from hetexp.experiments.engine.costs import counted, peak_memory
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.targets import Logit

DETECTOR = {
    "gae": (get_method("gae").build(), 1, 1),
    "partial_lrp": (get_method("partial_lrp").build(), 2, 2),
    "cp_lrp": (get_method("cp_lrp").build(), 2, 2),
    "token_tm": (get_method("token_tm").build(), 2, 1),
    "integrated_gradients": (IntegratedGradients(3), 1 + 3 + 1, 1 + 3),  # and what y is at 0
    "smooth_grad": (SmoothGrad(4), 1 + 4, 1 + 4),
    "beyond_intuition": (BeyondIntuition(3), 1 + 3, 1 + 3),
    "d_rise": (DRise(masks=7, cells=3, together=4), 1 + 7, 1),
}


@pytest.mark.parametrize("name", DETECTOR)
def test_passes_of_a_detector(name: str) -> None:
    method, forward, backward = DETECTOR[name]
    adapter = DetrAdapter(tiny_detr(3, heads=4))
    with counted(adapter) as passes:
        (trace,) = observe(adapter, {"pixel_values": picture(48, 64)}, [[Logit(1, 2)]], {"it": method})
        attribute(trace, {"it": method})
    assert passes == {"forward": forward, "backward": backward}
    assert torch.autograd.grad.__module__ == "torch.autograd"  # nothing stays replaced


def test_passes_of_single_tokens() -> None:
    adapter, method = LxmertAdapter(tiny_lxmert(3, heads=4)), get_method("atman").build()
    with counted(adapter) as passes:
        observe(adapter, question(6, 5, seed=1), [[Logit(1)]], {"it": method})
    assert passes == {"forward": 1 + 1 + 6 + 5, "backward": 1}  # once to tell the maps apart, then token by token


def test_peak_memory() -> None:
    def run() -> Any:
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        return second + 1

    run()
    assert 8e6 <= peak_memory(run) < 8.2e6


def test_a_run_measures_costs_and_leaves_out_what_does_not_apply(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, trace: Any, maps: Any) -> Any:
        raise ConfigError("rollout has no rule for this")

    plain = run_to(toy_config("methods=[gae]"), tmp_path / "plain")
    monkeypatch.setattr(Rollout, "__call__", refuse)
    frame = run_to(toy_config("methods=[gae,rollout]", "costs=2"), tmp_path / "run")
    pd.testing.assert_frame_equal(frame, plain)
    costs = pd.read_csv(tmp_path / "run" / "costs.csv").set_index("method")
    assert costs["explanations"].to_dict()["gae"] == 2
    assert costs.loc["gae", ["forward", "backward"]].tolist() == [1, 1]
    assert costs.loc["gae", "seconds_ratio"] > 0
    assert costs.loc["gae", "memory_ratio"] > 0.5
    assert costs["refused"].to_dict()["rollout"] == "rollout has no rule for this"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["refused"] == {
        "rollout": "rollout has no rule for this"
    }
    with pytest.raises(ConfigError, match="no method of this run applies to detr: rollout has no rule"):
        run_to(toy_config("methods=[rollout]", "costs=1"), tmp_path / "none")
