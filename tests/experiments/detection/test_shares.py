"""How methods and scales are dealt out to worker processes."""

from __future__ import annotations

from typing import Any

import pytest

from hetexp.experiments.detection.scores import shares_of

METHODS: Any = ["a", "b", "c", "d", "e"]
SCALES = [1.0, 0.3, 0.5]


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 4, 8, 15, 40])
def test_every_mask_is_made_once_in_order_and_processes_have_equal_shares(workers: int) -> None:
    shares = shares_of(METHODS, SCALES, workers)
    jobs = [job for share in shares for job in share]
    assert [(source, scale) for source, scales, _ in jobs for scale in scales] == [
        (source, scale) for source in METHODS for scale in SCALES
    ]
    assert [source for source, _, once in jobs if once] == METHODS
    sizes = [sum(len(scales) for _, scales, _ in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert len(shares) == min(max(workers, 1), 15)


def test_a_process_has_whole_methods_where_it_can() -> None:
    assert shares_of(METHODS[:4], SCALES, 2)[1] == [("c", SCALES, True), ("d", SCALES, True)]
    assert shares_of(METHODS, SCALES[:2], 2)[0] == [
        ("a", [1.0, 0.3], True),
        ("b", [1.0, 0.3], True),
        ("c", [1.0], True),
    ]
