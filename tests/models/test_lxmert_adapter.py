"""Padding, batches, missing regions, hooks and the state an LXMERT is left in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from compare import distance, general_methods, tolerance
from tiny import padded, question, tiny_lxmert
from torch import Tensor

from hetexp.attribution.attribute import attribute, observe
from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.integrated_gradients import IntegratedGradients
from hetexp.attribution.method import Method
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError, InputError
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.registry import load_model
from hetexp.models.trace import Target
from hetexp.paths import asset
from hetexp.targets import BoxSide, Difference, Logit

ALL: dict[str, Method] = {
    **{n: m for n, m in general_methods().items() if n != "random"},
    "integrated_gradients": IntegratedGradients(steps=2),
    "noised_total": Ours("pos", "total"),
    "gae_plain": Gae(normalise=False),
    "homologous": Homologous("abs"),
}
SHAPES = [(7, 9), (4, 12), (9, 3), (3, 1)]


@pytest.fixture
def adapter() -> LxmertAdapter:
    return LxmertAdapter(tiny_lxmert(12, heads=4, cross=3))


def inside(full: Tensor, alone: Tensor) -> Tensor:
    n = alone.shape[1]
    assert bool((full[:, n:] == 0).all())
    return full[:, :n]


@pytest.mark.parametrize("feature", LxmertAdapter.feature_names)
def test_batch_equals_one_at_a_time(adapter: LxmertAdapter, feature: str) -> None:
    """Different lengths, region counts and numbers of targets."""
    items = [question(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    targets: list[list[Target]] = [
        [Logit(), Difference(0, 1)],
        [Logit(2)],
        [Logit(0), Logit(1), Logit(3)],
        [Logit()],
    ]
    methods = {**ALL, "odam": Odam(feature)}
    together = observe(adapter, padded(items), targets, methods)
    for item, wanted, trace in zip(items, targets, together, strict=True):
        (alone,) = observe(adapter, item, [wanted], methods)
        assert trace.targets == tuple(wanted)
        want, got = attribute(alone, methods), attribute(trace, methods)
        for method in methods:
            for stream in ("text", "image"):
                map_ = inside(got[method][stream], want[method][stream])
                assert distance(map_, want[method][stream]) <= tolerance(method, torch.float64), (method, stream)
        assert torch.allclose(trace.outputs["logits"], alone.outputs["logits"], rtol=0, atol=1e-11)


def test_trace_and_prediction_are_the_class(adapter: LxmertAdapter) -> None:
    inputs = question(6, 5)
    want = adapter.model(**inputs).question_answering_score
    (trace,) = adapter.trace(inputs, [[Logit()]])
    assert torch.allclose(adapter.predict(inputs), want, rtol=0, atol=1e-12)
    assert torch.allclose(trace.outputs["logits"], want[0], rtol=0, atol=1e-12)


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
    texts = adapter.encode_texts([i["input_ids"][0] for i in items])
    embedded = adapter.embed_regions([(i["visual_feats"][0], i["visual_pos"][0]) for i in items])
    regions = adapter.encode_regions(embedded)
    assert [len(t) for t in texts] == [n for n, _ in (*SHAPES, (5, 0))]
    assert [len(r) for r in regions] == [n for _, n in (*SHAPES, (5, 0))]
    got = adapter.answer_parts(texts, regions)
    want = torch.cat([adapter.predict(i) for i in items])
    assert torch.allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("budget", [1, 100_000])
def test_a_small_byte_budget_changes_no_number(adapter: LxmertAdapter, budget: int) -> None:
    targets: list[list[Target]] = [[Logit(i) for i in range(6)]]
    (trace,) = observe(adapter, question(7, 9), targets, ALL)
    want, got = attribute(trace, ALL), attribute(trace, ALL, byte_budget=budget)
    for method in ALL:
        for stream in ("text", "image"):
            assert distance(got[method][stream], want[method][stream]) <= 1e-11, method


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


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
    with pytest.raises(InputError, match=r"input_ids must be \[B, T\], got \[6\]: add an axis"):
        adapter.predict({name: x[0] for name, x in question(6, 5).items()})
    with pytest.raises(InputError, match="25 tokens, this model takes at most 24"):
        adapter.trace(question(25, 5), [[Logit()]])
    with pytest.raises(InputError, match="class 6 does not exist: expected 0 to 5"):
        adapter.trace(question(6, 5), [[Logit(6)]])
    with pytest.raises(ConfigError, match=r"'pixels' is not known.*embedding, encoder"):
        adapter.trace(question(6, 5), [[Logit()]], features=["pixels"])
    with pytest.raises(InputError, match="target 0 is a box: LXMERT answers questions"):
        adapter.trace(question(6, 5), [[BoxSide("left")]])
    with pytest.raises(ConfigError, match="without a tokenizer"):
        adapter.encode("is there a zebra?", torch.zeros(1, 7), torch.zeros(1, 4))
    with pytest.raises(InputError, match="region features have 5 numbers, this checkpoint reads 7"):
        adapter.encode("is there a zebra?", torch.zeros(1, 5), torch.zeros(1, 4))


def test_the_trace_holds_no_graph(adapter: LxmertAdapter) -> None:
    (trace,) = adapter.trace(question(6, 5), [[Logit()]], features=adapter.feature_names)
    tensors = [trace.outputs["logits"]]
    for step in trace.steps():
        tensors += [step.probabilities, step.values, step.output_gradient]
    for by_source in trace.features.values():
        for features in by_source.values():
            tensors += [features.activation, features.gradient]
    for tensor in tensors:
        assert tensor.grad_fn is None
        assert not tensor.requires_grad


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(
    adapter: LxmertAdapter, switch: Callable[[], AbstractContextManager[None]]
) -> None:
    (want,) = adapter.trace(question(6, 5), [[Logit(1)]])
    with switch():
        (got,) = adapter.trace(question(6, 5), [[Logit(1)]])
    for a, b in zip(got.steps(), want.steps(), strict=True):
        assert torch.equal(a.output_gradient, b.output_gradient)


@pytest.fixture(scope="module")
def shipped() -> LxmertAdapter:
    adapter = load_model("lxmert", asset("lxmert"))
    assert isinstance(adapter, LxmertAdapter)
    return adapter


def test_encode_and_collate(shipped: LxmertAdapter) -> None:
    """Padding is 0 and masked; what a question means does not depend on the batch it lies in."""
    g = torch.Generator().manual_seed(0)
    sentences = ["is there a zebra?", "what is to the left of the red bird?", "how many?"]
    questions = []
    for sentence, n in zip(sentences, (5, 2, 0), strict=True):
        features, boxes = torch.randn(n, shipped.feature_width, generator=g), torch.rand(n, 4, generator=g)
        questions.append(shipped.encode(sentence, features.double(), boxes.double(), image=str(n)))
    assert [q.image for q in questions] == ["5", "2", "0"]
    assert shipped.question_tokens(questions[0]) == ["[CLS]", "is", "there", "a", "zebra", "?", "[SEP]"]
    assert questions[0].features.dtype == questions[0].boxes.dtype == shipped.dtype
    spans = shipped.offsets(sentences[0])
    assert [sentences[0][a:b] for a, b in spans] == ["", "is", "there", "a", "zebra", "?", ""]
    batch = shipped.collate(questions)
    assert batch["attention_mask"].sum(1).tolist() == [len(q.input_ids) for q in questions]
    assert batch["visual_attention_mask"].sum(1).tolist() == [5, 2, 0]
    for name, mask in (("input_ids", "attention_mask"), ("visual_feats", "visual_attention_mask")):
        assert bool((batch[name][batch[mask] == 0] == 0).all())
    together = shipped.predict(batch)
    assert together.shape == (3, shipped.n_answers)
    for row, question_ in enumerate(questions):
        alone = shipped.predict(shipped.collate([question_]))
        assert torch.allclose(together[row], alone[0], rtol=0, atol=1e-4)
        parts = shipped.answer_parts(
            shipped.encode_texts([question_.input_ids]),
            shipped.encode_regions(shipped.embed_regions([(question_.features, question_.boxes)])),
        )
        assert torch.allclose(parts[0], alone[0], rtol=0, atol=1e-4)


def test_labels_are_the_answers(shipped: LxmertAdapter) -> None:
    assert shipped.answers is not None
    assert shipped.labels == dict(enumerate(shipped.answers))
    assert len(shipped.labels) == shipped.n_answers
    assert LxmertAdapter(tiny_lxmert(1)).labels == {}


@pytest.mark.parametrize("sentence", ["", "   ", "[CLS] [SEP]", "[PAD]", "[MASK] [SEP]"])
def test_questions_without_words_are_refused(shipped: LxmertAdapter, sentence: str) -> None:
    regions = torch.zeros(1, shipped.feature_width), torch.zeros(1, 4)
    with pytest.raises(InputError, match="has no word besides special tokens"):
        shipped.encode(sentence, *regions)
    assert len(shipped.encode("gnu?", *regions).input_ids) == 4  # an unknown word is a word


def test_long_questions_are_refused_without_other_remarks(
    shipped: LxmertAdapter, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"has 82 tokens, this model takes at most 64: shorten 'zebra"):
        shipped.encode("zebra " * 80, torch.zeros(1, shipped.feature_width), torch.zeros(1, 4))
    assert "Token indices" not in capfd.readouterr().err
