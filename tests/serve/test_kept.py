"""What is kept in memory, and when it goes."""

from __future__ import annotations

import torch

from hetexp.serve.kept import Kept, bytes_of


def test_the_least_recently_used_goes():
    kept = Kept(30)
    for name in "abc":
        kept.put((name,), bytes(10))
    assert kept.held == 30
    assert kept.get(("a",)) == bytes(10)
    kept.put(("d",), bytes(5))
    assert kept.get(("b",)) is None
    assert kept.get(("a",)) is not None
    assert kept.held == 25


def test_a_value_replaced_counts_once_and_the_newest_stays():
    kept = Kept(30)
    kept.put(("a",), bytes(10))
    kept.put(("a",), bytes(20))
    assert kept.held == 20
    kept.put(("b",), bytes(100))
    assert kept.get(("a",)) is None
    assert kept.get(("b",)) is not None


def test_what_belongs_to_one_picture_goes_together():
    kept = Kept(100)
    for key in (("a",), ("a", "trace"), ("b", "trace")):
        kept.put(key, bytes(10))
    kept.forget(("a",))
    assert kept.held == 10
    assert kept.get(("b", "trace")) is not None


def test_views_count_as_the_storage_that_they_keep():
    whole = torch.zeros(100)
    assert bytes_of({"a": whole[:2], "b": [whole[5:], b"xyz"]}) == 403
    assert bytes_of((torch.zeros(2), torch.zeros(3))) == 20
    assert bytes_of("a text of no account") == 0
