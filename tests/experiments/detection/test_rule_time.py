"""The time of each method's rule, with a clock of known times."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from run_helpers import Compose, run_to

from hetexp.attribution.attribute import attribute
from hetexp.experiments.detection import rule_time


def test_the_shortest_time_counts_in_percent_of_a_pass(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    order: list[str] = []
    shortest = {"gae": 3.0, "ours_pos": 2.0, "detector": 20.0}

    def clock(run: partial[Any]) -> float:
        run()
        name = next(iter(run.args[1])) if run.func is attribute else "detector"
        calls[name] += 1
        order.append(name)
        return shortest[name] + (calls[name] % rule_time.REPEATS != 3)  # the third of each round is the shortest

    monkeypatch.setattr(rule_time, "seconds_of", clock)
    found = run_to(toy_config("methods=[gae,ours_pos]", "metrics=[rule_time]", "limit=3"), tmp_path / "run")
    assert found.set_index("method")["value"].to_dict() == pytest.approx({"gae": 15.0, "ours_pos": 10.0})
    assert set(found["panel"]) == {"cost"}
    assert set(found["metric"]) == {"rule_time"}
    images = int(found["n"].iloc[0])
    assert 1 <= images <= 3
    assert set(calls.values()) == {images * rule_time.REPEATS}
    assert order[:4] == ["gae", "ours_pos", "gae", "ours_pos"]  # in turn
