"""Which tokens stay: counts with Python's rounding, order by relevance, CLS and SEP always."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetexp.errors import InputError
from hetexp.evaluation.perturbation import FRACTIONS, kept_positions, n_kept, soft_scores, variants


def test_counts_follow_pythons_float_error() -> None:
    assert [n_kept(20, f) for f in FRACTIONS] == [20, 15, 10, 5, 3, 3, 1, 1, 0]
    assert [n_kept(36, f) for f in FRACTIONS] == [36, 27, 18, 9, 7, 5, 3, 1, 0]


def test_positive_removes_the_most_relevant_first() -> None:
    relevance = torch.tensor([0.1, 0.9, 0.5, -0.2])
    assert kept_positions(relevance, 0.5, positive=False) == (1, 2)
    assert kept_positions(relevance, 0.5, positive=True) == (0, 3)


def test_cls_and_sep_always_stay_and_do_not_count() -> None:
    text = torch.tensor([9.0, 0.3, 0.1, 0.2, 0.4, 8.0])
    plan = variants(text, torch.arange(4.0))
    assert plan["text_negative", 1.0].text == (0, 5)
    assert plan["text_negative", 0.5].text == (0, 1, 4, 5)
    assert plan["text_positive", 0.5].text == (0, 2, 3, 5)
    assert plan["text_positive", 0.5].regions == (0, 1, 2, 3)
    assert plan["image_negative", 0.75].regions == (3,)
    assert plan["image_positive", 1.0].regions == ()


def test_nan_has_no_order() -> None:
    with pytest.raises(InputError, match="cannot be ranked"):
        kept_positions(torch.tensor([0.1, torch.nan]), 0.5, positive=True)


def test_soft_scores_look_up_each_question() -> None:
    answers = np.array([[0, 1], [2, 2]])
    scores = soft_scores(answers, [{"a": 1.0, "b": 0.3}, {"c": 0.6}], ["a", "b", "c"])
    assert scores.tolist() == [[1.0, 0.3], [0.6, 0.6]]
