"""Perturbed answers against the reference's, and against the whole class run on each input alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetexp import load_model
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, Variant, variants
from hetexp.experiments.vqa.perturb import answer_variants, whole
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.protocols import EncodedQuestion

Arrays = dict[str, np.ndarray]

GOLDEN = Path(__file__).parents[2] / "golden" / "lxmert"


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return dict(np.load(GOLDEN / "t08_b36.npz"))


@pytest.fixture(scope="module")
def adapter() -> LxmertAdapter:
    found: LxmertAdapter = load_model("lxmert", GOLDEN / "model")
    return found


@pytest.fixture(scope="module")
def sample(golden: Arrays) -> EncodedQuestion:
    ids, features, boxes = (torch.from_numpy(golden[k][0]) for k in ("input_ids", "visual_feats", "visual_pos"))
    return EncodedQuestion(ids, features, boxes)


@pytest.mark.parametrize("method", ["gae", "ours_pos"])
@pytest.mark.parametrize("panel", PANELS)
def test_reference_answers_and_logits(
    golden: Arrays, adapter: LxmertAdapter, sample: EncodedQuestion, method: str, panel: str
) -> None:
    modality, positive = PANELS[panel]
    name = f"pert_{modality}_{'pos' if positive else 'neg'}_{method}"
    plan = variants(*(torch.from_numpy(golden[f"{method}_{s}"]).float() for s in ("text", "image")))
    found = answer_variants(adapter, [sample], [plan.values()])[0]
    assert [found[plan[panel, f]] for f in FRACTIONS] == golden[name].tolist()
    for f, expected in zip(FRACTIONS, golden[f"{name}_logits"], strict=True):
        kept = plan[panel, f]
        texts = adapter.encode_texts([sample.input_ids[list(kept.text)]])
        boxes = list(kept.regions)
        regions = adapter.encode_regions([adapter.embed_regions([(sample.features, sample.boxes)])[0][boxes]])
        assert np.abs(adapter.answer_parts(texts, regions).numpy()[0] - expected).max() < 1e-4


def test_padding_and_batching_change_no_logit(adapter: LxmertAdapter, sample: EncodedQuestion) -> None:
    kept: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((0, 2, 7), (5, 1)),
        ((0, 7), ()),
        ((0, 1, 2, 3, 4, 5, 6, 7), tuple(range(36))),
        ((0, 3, 7), (0,)),
    ]
    texts = [sample.input_ids[list(t)] for t, _ in kept]
    regions = [(sample.features[list(r)], sample.boxes[list(r)]) for _, r in kept]
    together = adapter.answer_parts(adapter.encode_texts(texts), adapter.encode_regions(adapter.embed_regions(regions)))
    for row, (t, r) in enumerate(zip(texts, regions, strict=True)):
        alone = adapter.predict({"input_ids": t[None], "visual_feats": r[0][None], "visual_pos": r[1][None]})[0]
        assert torch.allclose(together[row], alone, atol=1e-5)


def test_repeated_variants_run_once(
    adapter: LxmertAdapter, sample: EncodedQuestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = adapter.answer_parts

    def counted(texts: list[torch.Tensor], regions: list[torch.Tensor]) -> torch.Tensor:
        seen.append(len(texts))
        return original(texts, regions)

    monkeypatch.setattr(adapter, "answer_parts", counted)
    twice = [whole(sample), Variant((0, 7), (1,)), whole(sample)]
    out = answer_variants(adapter, [sample, sample], [twice, twice])
    assert sum(seen) == 4
    assert out[0] == out[1]


def test_what_several_questions_share_runs_once(
    adapter: LxmertAdapter, sample: EncodedQuestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs are told apart by what is fed: two questions of one picture without their words are one."""
    counts: Counter[str] = Counter()

    def counted(name: str, original: Callable[[Any], list[torch.Tensor]], parts: Sequence[Any]) -> list[torch.Tensor]:
        counts[name] += len(parts)
        return original(parts)

    for name in ("encode_texts", "embed_regions", "encode_regions"):
        monkeypatch.setattr(adapter, name, partial(counted, name, getattr(adapter, name)))
    one = replace(sample, image="a")
    other = replace(one, input_ids=torch.cat([one.input_ids[:3], one.input_ids[-1:]]))
    empty = Variant((0, 7), (1, 2))
    wanted = [[whole(one), empty], [whole(other), replace(empty, text=(0, 3))]]
    answers = answer_variants(adapter, [one, other], wanted)
    assert counts == {"encode_texts": 3, "embed_regions": 1, "encode_regions": 2}
    assert answers[0][empty] == answers[1][Variant((0, 3), (1, 2))]


def test_collate_pads_to_the_longest(adapter: LxmertAdapter, sample: EncodedQuestion) -> None:
    short = EncodedQuestion(sample.input_ids[:3], sample.features[:2], sample.boxes[:2])
    batch = adapter.collate([short, sample])
    assert batch["attention_mask"].sum(1).tolist() == [3, 8]
    assert batch["visual_attention_mask"].sum(1).tolist() == [2, 36]
    assert batch["visual_feats"].shape == (2, 36, 24)
