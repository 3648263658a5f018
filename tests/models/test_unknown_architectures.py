"""Architectures on no list, explained through a proposed wiring: against the dense oracle, corrected, and refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import oracle
import pytest
import torch
from compare import distance, tolerance
from mixture_oracle import catching_softmax
from oracle import Run, Seen
from test_encoder_decoders import t5, whisper
from test_two_towers import clip, siglip
from text_models import tiny_bart
from tiny import enliven
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BridgeTowerForImageAndTextRetrieval,
    LlamaConfig,
    LlamaForCausalLM,
)
from unknown_models import (
    SIZES,
    Fused,
    Joint,
    bridge_tower,
    of_bridge_tower,
    of_joint,
    of_transformer,
    plain_transformer,
)

import hetexp
from hetexp.errors import ConfigError
from hetexp.models.encoder_decoder import BartAdapter, T5Adapter, WhisperAdapter
from hetexp.models.examples import example_inputs
from hetexp.models.two_towers import ClipAdapter, SiglipAdapter
from hetexp.models.wiring_file import WiredSource, Wiring
from hetexp.paths import asset
from hetexp.targets import Logit

MAPS = [
    name
    for name, record in hetexp.METHODS.items()
    if name in oracle.METHODS and not record.build().features  # ODAM reads features, which a wiring does not name
]


@contextmanager
def returning_weights() -> Iterator[None]:
    """PyTorch's module takes the way that computes a softmax, and no fast path."""
    plain = nn.MultiheadAttention.forward
    before = torch.backends.mha.get_fastpath_enabled()

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **{**kwargs, "need_weights": True})

    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with patch.object(nn.MultiheadAttention, "forward", forward):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


Links = list[list[tuple[str, str]]]


def dense_run(
    forward: Callable[[], Tensor], encoder: Links, fusion: Links, order: list[int], read: tuple[str, int]
) -> Run:
    """One target's run; `order` says which softmax of the pass each link is, encoder first."""
    with returning_weights(), catching_softmax() as maps:
        y = forward()
    links = [pair for group in (*encoder, *fusion) for pair in group]
    assert len(maps) == len(links) == len(order)
    found = torch.autograd.grad(y, maps, allow_unused=True)
    gradients = [torch.zeros_like(a) if g is None else g for a, g in zip(maps, found, strict=True)]
    steps = iter(
        Seen(*pair, *(x[i].detach().reshape(-1, *x[i].shape[-2:]) for x in (maps, gradients)))
        for pair, i in zip(links, order, strict=True)
    )
    first = [next(steps) for group in encoder for _ in group]
    rest = [[next(steps) for _ in group] for group in fusion]
    sizes = {s.query: s.map.shape[1] for s in [*first, *(s for g in rest for s in g)]}
    return Run(first, rest, {}, sizes, tuple(sizes), *read)


def up_to(run: Run, n: int) -> Run:
    """The run without the tokens of the stream that is read which follow the explained one, as hetexp explains it."""

    def cut(step: Seen) -> Seen:
        rows, columns = (slice(n if s == run.readout else None) for s in (step.query, step.key))
        return replace(step, map=step.map[:, rows, columns], gradient=step.gradient[:, rows, columns])

    groups = [[cut(step) for step in group] for group in run.fusion]
    return replace(run, encoder=[cut(s) for s in run.encoder], fusion=groups, sizes={**run.sizes, run.readout: n})


def reading(model: nn.Transformer, inputs: dict[str, Tensor], token: int, unit: int) -> Tensor:
    found: Tensor = model(**inputs)
    return found.reshape(4, 16)[token, unit]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # PyTorch says so of batch_first=False
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False], ids=["causal", "all"])
def test_a_plain_transformer_equals_the_oracle(batch_first: bool, masked: bool) -> None:
    model, inputs = plain_transformer(batch_first), of_transformer(batch_first)
    if not masked:
        del inputs["tgt_mask"]
    before = model(**inputs)
    wiring = hetexp.propose(model, inputs)
    assert wiring.causal == ("tgt" if masked else None)
    adapter = hetexp.wrap(copy.deepcopy(model), wiring)
    encoder: Links = [[("src", "src")]] * 2
    fusion: Links = [[("tgt", "tgt")], [("tgt", "src")]] * 2
    targets = [(2, 3), (3, 7), (2, 9)]
    found = hetexp.explain(adapter, inputs, MAPS, [Logit(unit, query=token) for token, unit in targets])
    for method in MAPS:
        for row, (token, unit) in enumerate(targets):
            chosen = partial(reading, model, inputs, token, unit)
            run = dense_run(chosen, encoder, fusion, list(range(6)), ("tgt", token))
            run = up_to(run, token + 1) if masked else run
            for source, want in oracle.METHODS[method](run).items():
                got = found[method][source][row]
                assert distance(got[None, : len(want)], want[None]) <= tolerance(method, torch.float64), method
                assert bool((got[len(want) :] == 0).all())
        assert float(found[method]["src"].abs().max()) > 0, method
    assert torch.equal(model(**inputs), before)
    assert "forward" not in vars(adapter.model.encoder.layers[0].self_attn)
    assert not adapter.model._forward_hooks


# Softmaxes of BridgeTower's pass in order: two layers of each tower, a cross layer, one of each tower, a cross layer.
CROSS = [("text", "text"), ("text", "image"), ("image", "image"), ("image", "text")]
TOWERS: Links = [[("text", "text")]] * 2 + [[("image", "image")]] * 2
FUSED: Links = [CROSS, [("text", "text")], [("image", "image")], CROSS]


def test_bridge_tower_equals_the_oracle() -> None:
    model, inputs = bridge_tower(), of_bridge_tower()
    before = model(**inputs).logits
    wiring = hetexp.propose(model, inputs)
    assert wiring.sources["image"] == WiredSource("image", "1:", (4, 4), 8)
    assert wiring.readouts == {"text": ":"}
    assert sum("are these two streams?" in note for note in wiring.notes) == 2  # the towers run on beside the fusion
    found = hetexp.explain(hetexp.wrap(copy.deepcopy(model), wiring), inputs, MAPS, [Logit(4, query=3)])
    run = dense_run(lambda: model(**inputs).logits[0, 3, 4], TOWERS, FUSED, list(range(14)), ("text", 3))
    for method in MAPS:
        want = oracle.METHODS[method](run)
        assert float(want["image"].abs().max()) > 0, method
        assert distance(found[method]["text"], want["text"][None]) <= tolerance(method, torch.float64), method
        assert distance(found.tokens(method, "image"), want["image"][None, 1:]) <= tolerance(method, torch.float64), (
            method
        )
        assert found[method]["image"].shape == (1, 4, 4)
    assert found.extents == [(32, 32)]
    assert torch.equal(model(**inputs).logits, before)


def test_a_prediction_read_from_two_streams() -> None:
    """The rules are linear in what is read: relevance is the sum of both readouts'."""
    model, inputs = bridge_tower(BridgeTowerForImageAndTextRetrieval), of_bridge_tower()
    wiring = hetexp.propose(model, inputs)
    assert wiring.readouts == {"text": "0", "image": "0"}
    linear = ["ours_abs", "ours_pos", "ours_full", "ours_noised", "gae"]
    found = hetexp.explain(hetexp.wrap(model, wiring), inputs, linear, Logit(1))
    runs = [
        dense_run(lambda: model(**inputs).logits[0, 1], TOWERS, FUSED, list(range(14)), (stream, 0))
        for stream in ("text", "image")
    ]
    for method in linear:
        parts = [oracle.METHODS[method](run) for run in runs]
        want = {s: parts[0][s] + parts[1][s] for s in ("text", "image")}
        assert distance(found[method]["text"][:, 1:], want["text"][None, 1:]) <= 1e-9, method
        assert distance(found.tokens(method, "image"), want["image"][None, 1:]) <= 1e-9, method


def joint_run(model: Joint, inputs: dict[str, Tensor]) -> Run:
    """Maps and their gradients written out by hand."""
    x, maps = torch.cat([inputs["text"], inputs["image"]], 1)[0], []
    for layer in model.project:
        q, k, v = layer(x).unflatten(-1, (3, 2, 4)).permute(1, 2, 0, 3)
        maps.append((q @ k.transpose(1, 2)).softmax(-1))
        x = x + (maps[-1] @ v).transpose(0, 1).flatten(1)
    gradients = torch.autograd.grad(model.head(x[0])[1], maps)
    steps = [Seen("joint", "joint", a.detach(), g) for a, g in zip(maps, gradients, strict=True)]
    return Run([], [[step] for step in steps], {}, {"joint": 14}, ("joint",), "joint", 0)


@pytest.mark.parametrize("kind", [Joint, Fused])
def test_a_corrected_file_works(kind: Callable[[], Joint], tmp_path: Path) -> None:
    model, inputs = kind().double().eval(), of_joint()
    proposed = hetexp.propose(model, inputs)
    assert len(proposed.streams) == 1  # one pass cannot tell which tokens are words
    (stream,) = proposed.streams
    text = str(proposed.save(tmp_path / "wiring.yaml").read_text(encoding="utf-8"))
    assert Wiring.load(tmp_path / "wiring.yaml") == proposed
    corrected = f"""
output: null
sources:
  text: {{stream: {stream}, tokens: "0:5"}}
  image: {{stream: {stream}, tokens: "5:", grid: [3, 3]}}
readouts: {{{stream}: 0}}
fusion:
"""
    steps = [line for line in text.splitlines() if line.startswith("  - {module")]
    path = tmp_path / "corrected.yaml"
    path.write_text(corrected + "\n".join(steps), encoding="utf-8")
    found = hetexp.explain(hetexp.wrap(model, path), inputs, MAPS, Logit(1))
    run = joint_run(model, inputs)
    for method in MAPS:
        want = oracle.METHODS[method](run)["joint"][None]
        got = torch.cat([found[method]["text"], found[method]["image"].flatten(1)], 1)
        assert float(want.abs().max()) > 0 or method == "homologous", method  # a joint stream has no such part
        assert distance(got, want) <= tolerance(method, torch.float64), method
    described = hetexp.structure(hetexp.wrap(model, path), inputs)
    assert {step.kind for step in described.steps} == {"C"}


def test_calls_of_one_module_are_steps_of_their_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = x + self.attention(x, x, x)[0]
            return x

    model = Twice().double()
    inputs = {"x": torch.randn(1, 5, 8, dtype=torch.float64)}
    wiring = hetexp.propose(model, inputs)
    assert [(step.name, step.call) for step in wiring.steps] == [("attention", 1), ("attention:2", 2)]
    found = hetexp.explain(hetexp.wrap(model, wiring), inputs, ["ours_abs"], Logit(0, query=3))
    assert float(found["ours_abs"]["x"].max()) > 0


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [True, False])
def test_features_are_the_tokens_that_enter_the_first_layer(batch_first: bool) -> None:
    model, inputs = plain_transformer(batch_first), of_transformer(batch_first)
    adapter = hetexp.wrap(copy.deepcopy(model), hetexp.propose(model, inputs))
    found = hetexp.explain(adapter, inputs, ["odam", "input_x_gradient"], Logit(3, query=3))
    entering = {name: inputs[name].clone().requires_grad_() for name in ("src", "tgt")}  # no layer stands before
    y = model(**{**inputs, **entering}).reshape(4, 16)[3, 3]
    for name, gradient in zip(entering, torch.autograd.grad(y, list(entering.values())), strict=True):
        product = (entering[name].detach() * gradient).sum(-1).flatten()
        if name == "tgt":
            product[3] = 0  # the explained token's own
        assert distance(found["input_x_gradient"][name], product[None]) <= 1e-9
        assert distance(found["odam"][name], product.relu()[None]) <= 1e-9


def test_features_need_numbered_layers() -> None:
    adapter = hetexp.wrap(Joint().double(), hetexp.propose(Joint().double(), of_joint()))
    with pytest.raises(ConfigError, match="'default' is not known for this model: it offers none"):
        hetexp.explain(adapter, of_joint(), ["odam"], Logit(1))


def test_a_classifier_of_the_library() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    model = BertForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 7]])}
    wiring = hetexp.propose(model, inputs)
    assert (wiring.output, wiring.readouts, list(wiring.sources)) == ("logits", {"text": "0"}, ["text"])
    best = int(model(**inputs).logits.argmax())
    found = hetexp.explain(hetexp.wrap(model, wiring), inputs, ["gae"])
    assert found.labels == [str(best)]
    model.config.id2label = {0: "good", 1: "bad"}
    found = hetexp.explain(hetexp.wrap(model, wiring), inputs, ["gae"])
    assert found.labels == [("good", "bad")[best]]
    assert found["gae"]["text"].shape == (1, 4)


def test_heads_that_share_keys_and_values() -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": 2, "vocab_size": 30, "num_key_value_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="eager"))
    enliven(model, 0, 0.8)
    model = model.double().eval()
    inputs = {"input_ids": torch.tensor([[3, 5, 6, 7, 8]])}
    wiring = hetexp.propose(model, inputs)
    assert (wiring.causal, wiring.readouts) == ("text", {"text": ":"})
    found = hetexp.explain(hetexp.wrap(copy.deepcopy(model), wiring), inputs, MAPS, Logit(4))
    encoder: Links = [[("text", "text")]] * 2
    run = dense_run(lambda: model(**inputs).logits[0, 4, 4], encoder, [], [0, 1], ("text", 4))
    for method in MAPS:
        want = oracle.METHODS[method](run)["text"][None]
        assert distance(found[method]["text"], want) <= tolerance(method, torch.float64), method


def links_of(steps: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Which stream attends which, streams numbered as they appear."""
    numbers: dict[str, int] = {}
    return [tuple(numbers.setdefault(name, len(numbers)) for name in pair) for pair in steps]  # type: ignore[misc]


LISTED = {
    "detr": lambda: hetexp.load_model(asset("detr")),
    "deformable_detr": lambda: hetexp.load_model(asset("deformable_detr")),
    "lxmert": lambda: hetexp.load_model(asset("lxmert")),
    "bart": lambda: BartAdapter(tiny_bart()),
    "t5": lambda: T5Adapter(t5()),
    "whisper": lambda: WhisperAdapter(whisper()),
    "clip": lambda: ClipAdapter(clip()),
    "siglip": lambda: SiglipAdapter(siglip()),
}


@pytest.mark.parametrize("name", LISTED)
def test_proposals_for_listed_architectures_equal_their_wiring(name: str) -> None:
    """What one pass suggests is what was written by hand: streams, order, encoder part, and what is read."""
    adapter = LISTED[name]()
    inputs = {key: x for key, x in example_inputs(adapter).items() if key != "pixel_mask"}
    target = Logit(query=0) if hasattr(adapter, "detect") else Logit()
    (trace,) = adapter.trace(inputs, [[target]])
    everything = adapter.trace(inputs, [[]]) or [trace]  # LXMERT leaves out of a target's trace what no answer reads
    proposed = hetexp.propose(adapter.model, inputs)
    want = [(step.query, step.key) for step in everything[0].steps()]
    assert links_of((step.query, step.key) for step in proposed.steps) == links_of(want)
    assert len(proposed.encoder) == sum(len(group) for group in everything[0].encoder)
    assert proposed.causal is None if trace.causal is None or name == "clip" else proposed.causal == trace.causal
    streams = dict(zip(proposed.streams, dict.fromkeys(s for pair in want for s in pair), strict=True))
    assert {streams[stream] for stream in proposed.readouts} == set(trace.readouts)
    assert {streams[s.stream] for s in proposed.sources.values()} == set(trace.source_streams)
