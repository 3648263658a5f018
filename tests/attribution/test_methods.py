"""Settings of methods, shared maps, the random control."""

from __future__ import annotations

import pytest
import torch
from compare import distance, general_methods
from tiny import picture, question, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.attribution import corrections
from hetexp.attribution.attribute import attribute, build_methods, observe
from hetexp.attribution.control import Random
from hetexp.attribution.corrections import CorrectedMaps, corrected_maps
from hetexp.attribution.gae import Gae
from hetexp.attribution.homologous import Homologous
from hetexp.attribution.method import Method
from hetexp.attribution.odam import Odam
from hetexp.attribution.ours import Ours
from hetexp.attribution.propagation import per_sum
from hetexp.errors import ConfigError, InputError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Target
from hetexp.targets import Logit


@pytest.fixture(scope="module")
def trace() -> AttentionTrace:
    targets: list[list[Target]] = [[Logit(0, q) for q in range(3)]]
    adapter = DetrAdapter(tiny_detr(2, heads=4))
    return observe(adapter, {"pixel_values": picture(48, 64)}, targets, general_methods())[0]


@pytest.mark.parametrize("block", [1, 3 * 12 * 12 * 8, 2**24])
def test_corrections_of_one_step(trace: AttentionTrace, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one head, of three heads or one target, and of everything."""
    monkeypatch.setattr(corrections, "block_bytes", lambda device: block)
    step = next(trace.steps())
    got = {name: one.dense() for name, one in corrected_maps(step, ["pos", "full", "abs"]).items()}
    for name in got:
        assert torch.allclose(corrected_maps(step, [name])[name].dense(), got[name], rtol=0, atol=1e-15)
    gradient = torch.einsum("khqd,hnd->khqn", step.output_gradient, step.values)
    for name, factor in {"pos": gradient.clamp(min=0), "full": gradient, "abs": gradient.abs()}.items():
        want = (factor * step.probabilities).mean(1)
        assert torch.allclose(got[name], want, rtol=1e-12, atol=0), name
    assert torch.allclose(got["abs"], 2 * got["pos"] - got["full"], rtol=0, atol=1e-15)


def test_maps_are_computed_once_and_only_as_announced(trace: AttentionTrace) -> None:
    maps = CorrectedMaps(["pos"], trace.sizes)
    step = next(trace.steps())
    assert maps(step, "pos") is maps(step, "pos")
    with pytest.raises(ConfigError, match="'abs' was not announced"):
        maps(step, "abs")
    with pytest.raises(ConfigError, match="unknown correction 'relu': choose one of pos, full, abs"):
        corrected_maps(step, ["relu"])


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match="unknown correction 'relu'"):
        Ours("relu")
    with pytest.raises(ConfigError, match=r"unknown noise link 'column'.*none, row, total"):
        Ours("pos", "column")
    with pytest.raises(ConfigError, match="unknown correction 'relu'"):
        Homologous("relu")
    with pytest.raises(ConfigError, match=r"unknown method 'lime'. Available methods: gae, odam, ours_abs"):
        build_methods(["gae", "lime"])


def test_methods_differ(trace: AttentionTrace) -> None:
    found = attribute(trace, general_methods())
    names = ["ours_abs", "ours_pos", "ours_full", "ours_noised", "odam", "raw_attention", "rollout", "random"]
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not torch.allclose(found[a]["image"], found[b]["image"], rtol=1e-3), (a, b)


def test_random_repeats_and_differs_between_targets(trace: AttentionTrace) -> None:
    maps = CorrectedMaps([], trace.sizes)
    first, again = Random()(trace, maps)["image"], Random()(trace, maps)["image"]
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(Random()(trace.slice(1, 2), maps)["image"][0], first[1])
    assert 0 <= float(first.min()) <= float(first.max()) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_per_sum(dtype: torch.dtype) -> None:
    rows = torch.tensor([[3.0, 3.0, 3.0, 3.0]], dtype=dtype)
    sums = torch.tensor([[2.0, 0.0, torch.finfo(dtype).tiny, -0.5]], dtype=dtype)
    assert per_sum(rows, sums).tolist() == [[1.5, 0.0, 0.0, -6.0]]


def model_of(name: str) -> tuple[Adapter, dict[str, Tensor], list[list[Target]]]:
    if name == "lxmert":
        return LxmertAdapter(tiny_lxmert(2)), question(6, 5), [[Logit(1)]]
    return DetrAdapter(tiny_detr(2, heads=4)), {"pixel_values": picture(48, 64)}, [[Logit(0, 1), Logit(1, 3)]]


@pytest.mark.parametrize("model", ["detr", "lxmert"])
def test_only_methods_that_read_features_pay_for_them(model: str) -> None:
    """Without ODAM and its like the trace holds no features, and every other method finds bit-equal relevance."""
    adapter, inputs, targets = model_of(model)
    everything = general_methods()
    others = {name: method for name, method in everything.items() if not method.features}
    (with_odam,), (without,) = (observe(adapter, inputs, targets, methods) for methods in (everything, others))
    assert set(with_odam.features) == {"default"}
    assert not without.features
    want, got = attribute(with_odam, others), attribute(without, others)
    for name, maps in got.items():
        for stream, relevance in maps.items():
            assert torch.equal(relevance, want[name][stream]), name
    with pytest.raises(InputError, match=r"'default', which this trace was taken without: .*features=\['default'\]"):
        attribute(without, build_methods(["odam"]))


@pytest.mark.parametrize("model", ["detr", "lxmert"])
def test_several_features_in_one_pass(model: str) -> None:
    """Each is what a pass for it alone finds; the default one is the first."""
    adapter, inputs, targets = model_of(model)
    methods = {name: Odam(name) for name in ("default", *adapter.feature_names)}
    (trace,) = observe(adapter, inputs, targets, methods)
    assert set(trace.features) == set(methods)
    together = attribute(trace, methods)
    for name, method in methods.items():
        (alone,) = observe(adapter, inputs, targets, {name: method})
        for source, got in attribute(alone, {name: method})[name].items():
            assert distance(got, together[name][source]) <= 1e-12, (name, source)
    for source in trace.sources:
        assert torch.equal(together["default"][source], together[adapter.feature_names[0]][source])
        maps = [together[name][source] for name in adapter.feature_names]
        assert all(distance(a, b) > 1e-3 for i, a in enumerate(maps) for b in maps[:i])


def test_own_entry_of_the_explained_token_is_zero_for_every_method() -> None:
    adapter, inputs, _ = model_of("lxmert")
    methods: dict[str, Method] = {**general_methods(), "homologous": Homologous(), "plain": Gae(normalise=False)}
    (trace,) = observe(adapter, inputs, [[Logit(0), Logit(2)]], methods)
    for name, found in attribute(trace, methods).items():
        assert found["text"][:, 0].tolist() == [0, 0], name
        assert bool((found["text"][:, 1:] != 0).any()), name
        assert bool((found["image"] != 0).any()), name
