"""Every choice in reading corrected maps against matrices written out, and on maps small enough to know by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import distance
from tiny import picture, question, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.attribution.attribute import observe
from hetexp.attribution.corrections import CorrectedMaps, corrected_maps
from hetexp.attribution.gae import Gae
from hetexp.attribution.maps import DenseMap, Map, PlacedMap, PlusIdentity, SparseMap
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.trace import AttentionStep, AttentionTrace, Layout, View
from hetexp.targets import Logit

Read = Callable[[Tensor, AttentionStep, bool], Tensor]  # corrected map, step, whether it is homologous -> map


def traced(model: str) -> AttentionTrace:
    if model == "lxmert":
        return observe(LxmertAdapter(tiny_lxmert(4)), question(6, 5), [[Logit(1)]], {})[0]
    adapter = DetrAdapter(tiny_detr(4, heads=4, encoder_layers=3))
    return observe(adapter, {"pixel_values": picture(48, 64)}, [[Logit(0, 1), Logit(1, 3)]], {})[0]


def written_out(
    trace: AttentionTrace,
    correction: str,
    read: Read = lambda a, step, homologous: a,
    last: int | None = None,
    link: str | None = None,
    doubled: bool = False,
    heads: slice = slice(None),
) -> dict[str, Tensor]:
    """The readout row of the score matrices A[X, s], every matrix formed."""

    def of(step: AttentionStep, homologous: bool) -> Tensor:
        gradient = torch.einsum("khqd,hnd->khqn", step.output_gradient, step.values)[:, heads]
        factor = {"pos": gradient.clamp(min=0), "full": gradient, "abs": gradient.abs()}[correction]
        return read((factor * step.probabilities[heads]).mean(1), step, homologous)

    k = trace.n_targets
    scores = {(s, s): torch.eye(n, dtype=torch.float64).expand(k, n, n) for s, n in trace.sizes.items()}
    for stream in trace.sizes:
        steps = [step for group in trace.encoder for step in group if step.query == stream]
        for step in steps if last is None else steps[len(steps) - last :]:
            scores[stream, stream] = scores[stream, stream] + of(step, True) @ scores[stream, stream]
        if steps and link in ("all", stream):
            noise = scores[stream, stream] - torch.eye(trace.sizes[stream])
            sums = noise.sum(2, keepdim=True)
            scores[stream, stream] = torch.where(sums == 0, 0, noise / sums) + torch.eye(trace.sizes[stream])
    for group in trace.fusion:
        before = dict(scores)
        for step in group:
            a = of(step, False)
            if doubled and step.is_self:
                a = a + torch.eye(a.shape[-1])
            for source in trace.sizes:
                if (step.key, source) in before:
                    added = a @ before[step.key, source]
                    scores[step.query, source] = scores.get((step.query, source), 0) + added
    (stream, tokens), *_ = trace.readouts.items()
    return {s: scores[stream, s][torch.arange(k), tokens] for s in trace.source_streams}


def row_normalised(a: Tensor, step: AttentionStep, homologous: bool) -> Tensor:
    sums = a.abs().sum(-1, keepdim=True)
    return torch.where(sums > 0, 0.3 * a / sums, 0)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as published": ({}, {}),
    "unit of y": ({"y_unit": 10.0}, {"read": lambda a, step, homologous: 10 * a}),
    "row sums": ({"row_sum": 0.3}, {"read": row_normalised}),
    "weight": ({"encoder_weight": 0.25}, {"read": lambda a, step, homologous: a / 4 if homologous else a}),
    "no encoder": ({"encoder_layers": 0}, {"last": 0}),
    "last layer": ({"encoder_layers": 1}, {"last": 1}),
    "first heads": ({"heads": "first_half"}, {"heads": slice(0, 1)}),
    "last heads": ({"heads": "second_half"}, {"heads": slice(1, 2)}),
    "Eq. 6 to the letter": ({"double_identity": True}, {"doubled": True}),
    "link": ({"noise_link": "row"}, {"link": "all"}),
    "link of one stream": ({"noise_link": "row", "noise_stream": "image"}, {"link": "image"}),
}


@pytest.mark.parametrize("correction", ["pos", "abs", "full"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", ["detr", "lxmert"])
def test_against_matrices_written_out(model: str, case: str, correction: str) -> None:
    trace = traced(model)
    parameters, expected = CASES[case]
    if "heads" in expected:
        half = len(next(trace.steps()).probabilities) // 2
        expected = {"heads": slice(0, half) if expected["heads"].start == 0 else slice(half, 2 * half)}
    got = Ours(correction, **parameters)(trace, CorrectedMaps([correction], trace.sizes))
    want = written_out(trace, correction, **expected)
    for source, relevance in got.items():
        assert distance(relevance, want[source]) <= 1e-12, source
    if parameters:
        plain = Ours(correction)(trace, CorrectedMaps([correction], trace.sizes))
        assert any(distance(plain[source], got[source]) > 1e-6 for source in got), "the choice changes nothing"


@pytest.mark.parametrize("model", ["detr", "lxmert"])
def test_with_row_sums_the_unit_of_y_decides_nothing(model: str) -> None:
    trace = traced(model)
    thousand = AttentionTrace(**{**vars(trace), "encoder": _times(trace.encoder), "fusion": _times(trace.fusion)})
    for correction in ("abs", "pos"):
        one, other = (Ours(correction, row_sum=0.3)(t, CorrectedMaps([correction], t.sizes)) for t in (trace, thousand))
        plain, changed = (Ours(correction)(t, CorrectedMaps([correction], t.sizes)) for t in (trace, thousand))
        ten = Ours(correction, y_unit=1000)(trace, CorrectedMaps([correction], trace.sizes))
        for source in one:
            assert distance(one[source], other[source]) <= 1e-12
            assert distance(plain[source], changed[source]) > 1e-3
            assert distance(ten[source], changed[source]) <= 1e-12, "y_unit is the unit of y"


def _times(groups: tuple[tuple[AttentionStep, ...], ...]) -> tuple[tuple[AttentionStep, ...], ...]:
    """The same attention for a target that is 1000 times as large."""
    return tuple(
        tuple(AttentionStep(**{**vars(s), "output_gradient": 1000 * s.output_gradient}) for s in g) for g in groups
    )


def by_hand() -> AttentionTrace:
    """Two image tokens and one query; every gradient is 1, so a corrected map is the attention itself."""

    def step(name: str, query: str, key: str, attention: list[list[float]]) -> AttentionStep:
        a = torch.tensor([attention], dtype=torch.float64)
        ones = torch.ones(1, a.shape[2], 1, dtype=torch.float64)
        return AttentionStep(name, query, key, a, ones, torch.ones(1, 1, a.shape[1], 1, dtype=torch.float64))

    layout = Layout((1, 2), torch.arange(2))
    return AttentionTrace(
        sizes={"image": 2, "queries": 1},
        views={"image": View("image")},
        encoder=((step("encoder", "image", "image", [[0.0, 0.5], [0.0, 0.0]]),),),
        fusion=((step("cross", "queries", "image", [[0.75, 0.25]]),),),
        readouts={"queries": torch.tensor([0])},
        targets=(Logit(0),),
        layouts={"image": layout},
        outputs={"logits": torch.zeros(1, 1)},
    )


@pytest.mark.parametrize(
    ("method", "relevance"),
    [
        # the query's row [.75, .25] times I + A of the encoder, whose first row gives half of itself to token 1
        (Ours("pos"), [0.75, 0.25 + 0.75 * 0.5]),
        (Ours("pos", encoder_layers=0), [0.75, 0.25]),
        (Ours("pos", encoder_weight=0.5), [0.75, 0.25 + 0.75 * 0.25]),
        (Ours("pos", y_unit=2), [1.5, 0.5 + 1.5 * 1.0]),
        (Ours("pos", noise_link="row"), [0.75, 0.25 + 0.75]),  # the row of sum .5 becomes one of sum 1
        (Ours("pos", noise_link="row", noise_stream="queries"), [0.75, 0.25 + 0.75 * 0.5]),
        (Ours("pos", row_sum=0.3), [0.225, 0.075 + 0.225 * 0.3]),
        # the encoder's second row is 0: 0 / 0 drops the layer in GAE's code, and with the identity kept it is the link
        (Gae(), [0.0, 0.0]),
        (Gae(zero_rows="identity"), [0.75, 0.25 + 0.75]),
        (Gae(normalise=False), [0.75, 0.25 + 0.75 * 0.5]),
        (Gae(normalise=False, outer=False), [0.75, 0.25 + 0.75 * 0.5]),
    ],
)
def test_known_by_hand(method: Any, relevance: list[float]) -> None:
    trace = by_hand()
    got = method(trace, CorrectedMaps(["pos"], trace.sizes))["image"]
    assert got.tolist() == [pytest.approx(relevance, abs=1e-15)]


@pytest.mark.parametrize("model", ["detr", "lxmert"])
def test_gae_without_its_normalisations_and_first_factor_is_ours(model: str) -> None:
    trace = traced(model)
    maps = CorrectedMaps(["pos"], trace.sizes)
    ours = Ours("pos")(trace, maps)
    bare, alone = Gae(normalise=False, outer=False)(trace, maps), Gae(normalise=False)(trace, maps)
    for source, relevance in ours.items():
        assert distance(bare[source], relevance) <= 1e-12, source
    assert any(distance(alone[source], relevance) > 1e-6 for source, relevance in ours.items()), "the factor counts"


def test_shuffled_noise_is_the_links_own_on_other_tokens() -> None:
    trace = traced("detr")
    maps = CorrectedMaps(["pos"], trace.sizes)
    plain, linked, shuffled, again = (
        Ours("pos", link)(trace, maps)["image"] for link in ("none", "row", "shuffled", "shuffled")
    )
    assert torch.equal(shuffled, again)
    added, moved = linked - plain, shuffled - plain
    assert torch.allclose(added.sort(1).values, moved.sort(1).values, rtol=0, atol=1e-12)
    assert distance(added, moved) > 1e-2


def test_heads_in_halves_average_to_all() -> None:
    trace = traced("detr")
    step = next(trace.steps())
    whole = corrected_maps(step, ["abs"])["abs"].dense()
    halves = [
        Ours("abs", heads=half).maps_of(trace, CorrectedMaps(["abs"], trace.sizes), "abs")(step).dense()
        for half in ("first_half", "second_half")
    ]
    assert torch.allclose((halves[0] + halves[1]) / 2, whole, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"y_unit": 0.0}, r"y_unit=0.0 must be a number that is positive"),
        ({"y_unit": float("nan")}, r"y_unit=nan must be"),
        ({"row_sum": -1.0}, r"row_sum=-1.0 must be a number that is positive"),
        ({"encoder_weight": -0.1}, r"encoder_weight=-0.1 must be a number that is 0 or more"),
        ({"encoder_layers": -1}, r"encoder_layers=-1 must be"),
        ({"heads": "third"}, r"unknown heads 'third': choose one of all, first_half, second_half"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    for method in (Ours, Gae):
        with pytest.raises(ConfigError, match=message):
            method(**parameters)


def test_what_a_model_does_not_have_is_refused() -> None:
    trace = by_hand()
    with pytest.raises(ConfigError, match=r"noise_stream='text' does not exist: choose all, or one of image, queries"):
        Ours("pos", "row", noise_stream="text")(trace, CorrectedMaps(["pos"], trace.sizes))
    with pytest.raises(ConfigError, match=r"has one head, which has no halves"):
        Ours("pos", heads="first_half")(trace, CorrectedMaps(["pos"], trace.sizes))
    with pytest.raises(ConfigError, match=r"unknown zero_rows 'keep': choose one of drop, identity"):
        Gae(zero_rows="keep")


def square(kind: str) -> tuple[Map, Tensor]:
    g = torch.Generator().manual_seed(3)
    dense = torch.rand(2, 4, 4, generator=g, dtype=torch.float64)
    if kind == "dense":
        return DenseMap(dense), dense
    keys = torch.tensor([[0, 1], [2, 2], [3, 0], [1, 3]])
    entries = torch.rand(2, 4, 2, generator=g, dtype=torch.float64)
    matrix = torch.zeros(2, 4, 4, dtype=torch.float64).scatter_add_(2, keys.expand(2, 4, 2), entries)
    if kind == "sparse":
        return SparseMap(entries, keys, 4), matrix
    placed = torch.zeros(2, 6, 6, dtype=torch.float64)
    index = torch.tensor([5, 0, 2, 3])
    placed[:, index[:, None], index] = matrix
    return PlacedMap(SparseMap(entries, keys, 4), index, index, 6, 6), placed


@pytest.mark.parametrize("kind", ["dense", "sparse", "placed"])
def test_scaled_rows_and_an_added_identity(kind: str) -> None:
    found, matrix = square(kind)
    n = matrix.shape[1]
    factors = torch.arange(1.0, 2 * n + 1, dtype=torch.float64).view(2, n)
    assert torch.allclose(found.scaled(factors).dense(), matrix * factors[:, :, None], rtol=0, atol=1e-15)
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    assert torch.allclose(found.scaled(half).dense(), matrix / 2, rtol=0, atol=1e-15)
    plus, want = PlusIdentity(found), matrix + torch.eye(n, dtype=torch.float64)
    rows = torch.rand(2, n, dtype=torch.float64)
    assert torch.allclose(plus.apply(rows), torch.einsum("kn,knm->km", rows, want), rtol=0, atol=1e-14)
    assert torch.allclose(plus.times(want), want @ want, rtol=0, atol=1e-14)
    assert torch.allclose(plus.under(want), want @ want, rtol=0, atol=1e-14)
    assert torch.allclose(plus.row_sums(), want.sum(2), rtol=0, atol=1e-14)
    assert torch.allclose(plus.dense(), want, rtol=0, atol=0)
    assert torch.allclose(plus.scaled(factors).dense(), want * factors[:, :, None], rtol=0, atol=1e-14)
    assert torch.allclose(plus.change(torch.square).dense(), want.square(), rtol=0, atol=1e-14)
