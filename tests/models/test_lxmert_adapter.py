"""Padding, batches, missing regions, hooks and the state an LXMERT is left in."""

from __future__ import annotations

import pytest
import torch
from compare import distance
from tiny import padded, question, tiny_lxmert
from torch import Tensor

from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.methods import METHODS, attribute
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError, InputError
from hetexp.models.load import load_model
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.lxmert_parts import answer, encode_regions, encode_texts
from hetexp.paths import asset
from hetexp.targets import Difference, Logit

ALL = {
    **METHODS,
    "noised_total": Ours("pos", "total"),
    "gae_plain": Gae(normalise=False),
    "homologous": Homologous("abs"),
}
del ALL["random"]
SHAPES = [(7, 9), (4, 12), (9, 3), (3, 1)]


@pytest.fixture
def adapter() -> LxmertAdapter:
    return LxmertAdapter(tiny_lxmert(12, heads=4, cross=3))


def inside(full: Tensor, alone: Tensor) -> Tensor:
    n = alone.shape[1]
    assert bool((full[:, n:] == 0).all())
    return full[:, :n]


@pytest.mark.parametrize("feature", LxmertAdapter.odam_features)
def test_batch_equals_one_at_a_time(adapter: LxmertAdapter, feature: str) -> None:
    """Different lengths, region counts and numbers of targets."""
    items = [question(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    targets = [[Logit(), Difference(0, 1)], [Logit(2)], [Logit(0), Logit(1), Logit(3)], [Logit()]]
    together = adapter.trace(padded(items), targets, odam_feature=feature)
    for item, wanted, trace in zip(items, targets, together, strict=True):
        (alone,) = adapter.trace(item, [wanted], odam_feature=feature)
        want, got = attribute(alone, ALL), attribute(trace, ALL)
        for method in ALL:
            for stream in ("text", "image"):
                map_ = inside(got[method][stream], want[method][stream])
                assert distance(map_, want[method][stream]) <= 1e-9, (method, stream)
        assert torch.allclose(trace.outputs["logits"], alone.outputs["logits"], rtol=0, atol=1e-11)


def test_trace_and_prediction_are_the_class(adapter: LxmertAdapter) -> None:
    inputs = question(6, 5)
    want = adapter.model(**inputs).question_answering_score
    (trace,) = adapter.trace(inputs, [[Logit()]])
    assert torch.allclose(adapter.predict(inputs), want, rtol=0, atol=1e-12)
    assert torch.allclose(trace.outputs["logits"], want[0], rtol=0, atol=1e-12)


def test_own_entry_of_cls(adapter: LxmertAdapter) -> None:
    """The baselines leave it out; ours keeps its true value, about 1."""
    (trace,) = adapter.trace(question(6, 5), [[Logit()]])
    found = attribute(trace, ALL)
    for method in ("gae", "gae_plain", "raw_attention", "rollout", "grad_cam"):
        assert float(found[method]["text"][0, 0]) == 0, method
    assert float(found["ours_pos"]["text"][0, 0]) >= 1


def no_region_by_hand(adapter: LxmertAdapter, inputs: dict[str, Tensor]) -> Tensor:
    """Attention over no region returns nothing: text gets exactly 0 from the image in every cross layer."""
    calls = {"n": 0}

    def nothing(module: torch.nn.Module, args: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls["n"] += 1
        return (output[0] * (calls["n"] % 2 == 0), *output[1:])

    layers = adapter.model.lxmert.encoder.x_layers
    handles = [layer.visual_attention.att.register_forward_hook(nothing) for layer in layers]
    one = {
        k: (v if k == "input_ids" else torch.full((1, 1, v.shape[2]), 0.4, dtype=v.dtype)) for k, v in inputs.items()
    }
    with torch.no_grad():
        logits = adapter.model(**one).question_answering_score
    for handle in handles:
        handle.remove()
    return logits


def test_no_region(adapter: LxmertAdapter) -> None:
    inputs = question(6, 0)
    want = no_region_by_hand(adapter, inputs)
    assert torch.allclose(adapter.predict(inputs), want, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError):  # why it needs care: the class itself cannot
        adapter.model(**inputs)
    batch = padded([inputs, question(6, 5, seed=3)])
    together = adapter.predict(batch)
    assert torch.allclose(together[:1], want, rtol=0, atol=1e-11)
    assert torch.allclose(together[1:], adapter.predict(question(6, 5, seed=3)), rtol=0, atol=1e-11)
    assert not torch.allclose(want, adapter.predict(question(6, 5)), atol=1e-3)


def test_parts_are_the_class(adapter: LxmertAdapter) -> None:
    items = [question(*shape, seed=i) for i, shape in enumerate([*SHAPES, (5, 0)])]
    texts = encode_texts(adapter.model, [i["input_ids"][0] for i in items])
    regions = encode_regions(adapter.model, [(i["visual_feats"][0], i["visual_pos"][0]) for i in items])
    got = answer(adapter.model, texts, regions)
    want = torch.cat([adapter.predict(i) for i in items])
    assert torch.allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("budget", [1, 100_000])
def test_a_small_byte_budget_changes_no_number(adapter: LxmertAdapter, budget: int) -> None:
    inputs, targets = question(7, 9), [[Logit(i) for i in range(6)]]
    (trace,) = adapter.trace(inputs, targets)
    want, got = attribute(trace, ALL), attribute(trace, ALL, byte_budget=budget)
    for method in ALL:
        for stream in ("text", "image"):
            assert distance(got[method][stream], want[method][stream]) <= 1e-11, method


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_lxmert(12)
    wanted = [p.requires_grad for p in model.parameters()]
    adapter = LxmertAdapter(model)
    adapter.trace(question(6, 5), [[Logit()]])
    adapter.predict(question(6, 0))
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert any(wanted)
    assert hooks(model) == 0


@pytest.mark.parametrize("regions", [0, 5])
def test_an_error_inside_the_model_leaves_it_as_it_was(regions: int) -> None:
    model = tiny_lxmert(12)
    wanted = [p.requires_grad for p in model.parameters()]

    def fail(module: torch.nn.Module, args: object) -> None:
        raise RuntimeError("deliberate")

    handle = model.answer_head.register_forward_pre_hook(fail)
    adapter = LxmertAdapter(model)
    for call in (lambda: adapter.predict(question(6, regions)), lambda: adapter.trace(question(6, 5), [[Logit()]])):
        with pytest.raises(RuntimeError, match="deliberate"):
            call()
    handle.remove()
    assert hooks(model) == 0
    assert [p.requires_grad for p in model.parameters()] == wanted


def test_bad_input(adapter: LxmertAdapter) -> None:
    with pytest.raises(InputError, match="target 0 names a query"):
        adapter.trace(question(6, 5), [[Logit(0, query=1)]])
    with pytest.raises(InputError, match="25 tokens, this model takes at most 24"):
        adapter.trace(question(25, 5), [[Logit()]])
    with pytest.raises(InputError, match="class 6 does not exist: expected 0 to 5"):
        adapter.trace(question(6, 5), [[Logit(6)]])
    with pytest.raises(ConfigError, match=r"'pixels' is not known.*embedding, encoder"):
        adapter.trace(question(6, 5), [[Logit()]], odam_feature="pixels")
    with pytest.raises(ConfigError, match="without a tokenizer"):
        adapter.tokenize("is there a zebra?")


@pytest.mark.parametrize("sentence", ["", "   ", "[CLS] [SEP]", "[PAD]", "[MASK] [SEP]"])
def test_questions_without_words_are_refused(sentence: str) -> None:
    shipped = load_model("lxmert", asset("lxmert"))
    with pytest.raises(InputError, match="has no word besides special tokens"):
        shipped.tokenize(sentence)
    assert len(shipped.tokenize("gnu?")) == 4  # an unknown word is a word


def test_long_questions_are_refused_without_other_remarks(capfd: pytest.CaptureFixture[str]) -> None:
    shipped = load_model("lxmert", asset("lxmert"))
    with pytest.raises(InputError, match=r"has 82 tokens, this model takes at most 64: shorten 'zebra"):
        shipped.tokenize("zebra " * 80)
    assert "Token indices" not in capfd.readouterr().err
