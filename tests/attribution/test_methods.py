"""The fast path against the dense oracle, for every method, on random models."""

from __future__ import annotations

import dense_oracle as oracle
import pytest
import torch
from conftest import question, random_detr, random_lxmert

import hetexp
from hetexp import targets
from hetexp.attribution.gae import Gae
from hetexp.attribution.methods import METHODS, attribute
from hetexp.attribution.ours import Ours
from hetexp.errors import ConfigError, InputError

NAMES = [name for name in METHODS if name != "random"]


def close(found, expected, tolerance=1e-9):
    """Largest difference relative to the map's largest value."""
    found, expected = found.double().flatten(), expected.double().flatten()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-300)


def image(seed, height=64, width=80):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("seed", "shape", "size"),
    [
        (1, {}, (64, 80)),
        (2, {"encoder": 1, "decoder": 1, "heads": 2}, (96, 48)),
        (3, {"encoder": 3, "queries": 2}, (40, 56)),
    ],
)
def test_detr_equals_the_oracle(seed, shape, size):
    adapter = random_detr(seed, **shape)
    pixels = image(seed, *size)
    queries = range(adapter.model.config.num_queries)
    found = hetexp.explain(adapter, {"pixel_values": pixels}, NAMES, [targets.Logit(query=q) for q in queries])
    for q in queries:
        program = oracle.detr_program(adapter.model, {"pixel_values": pixels}, q, lambda row: row.max())
        for name, expected in oracle.everything(program, "detr").items():
            close(found[name]["image"][q], expected["image"])


@pytest.mark.parametrize(
    ("seed", "shape", "text", "regions"),
    [(1, {}, 7, 12), (2, {"l_layers": 1, "r_layers": 1, "x_layers": 1}, 3, 1), (3, {"heads": 2, "x_layers": 2}, 15, 5)],
)
def test_lxmert_equals_the_oracle(seed, shape, text, regions):
    adapter = random_lxmert(seed, **shape)
    inputs = question(seed, text, regions)
    found = hetexp.explain(adapter, inputs, NAMES)
    program = oracle.lxmert_program(adapter.model, inputs, lambda row: row.max())
    for name, expected in oracle.everything(program, "lxmert").items():
        for stream in ("text", "image"):
            close(found[name][stream][0], expected[stream])


@pytest.mark.parametrize("correction", ["pos", "full", "abs"])
@pytest.mark.parametrize("link", ["none", "row", "total"])
def test_every_variant_of_ours(detr, lxmert, correction, link):
    method = {"m": Ours(correction, link)}
    pixels = image(4)
    found = hetexp.explain(detr, {"pixel_values": pixels}, method, targets.Logit(query=3))["m"]["image"][0]
    program = oracle.detr_program(detr.model, {"pixel_values": pixels}, 3, lambda row: row.max())
    close(found, oracle.ours(program, correction, link)["image"])
    inputs = question(4, 6, 9)
    found = hetexp.explain(lxmert, inputs, method)["m"]
    program = oracle.lxmert_program(lxmert.model, inputs, lambda row: row.max())
    for stream in ("text", "image"):
        close(found[stream][0], oracle.ours(program, correction, link)[stream])


TARGETS = [
    (targets.Logit(2), lambda r: r[2]),
    (targets.Difference(1, 4), lambda r: r[1] - r[4]),
    (targets.Ratio(1, 4), lambda r: r[1] / r[4]),
    (targets.RelativeDifference(1, 4), lambda r: (r[1] - r[4]) / r[4]),
]


@pytest.mark.parametrize(("target", "y"), TARGETS)
def test_targets(detr, lxmert, target, y):
    inputs = question(5, 6, 9)
    found = hetexp.explain(lxmert, inputs, NAMES, target)
    expected = oracle.everything(oracle.lxmert_program(lxmert.model, inputs, y), "lxmert")
    for name, maps in expected.items():
        close(found[name]["image"][0], maps["image"])
    pixels = image(5)
    asked = type(target)(**{**vars(target), "query": 1})
    found = hetexp.explain(detr, {"pixel_values": pixels}, NAMES, asked)
    expected = oracle.everything(oracle.detr_program(detr.model, {"pixel_values": pixels}, 1, y), "detr")
    for name, maps in expected.items():
        close(found[name]["image"][0], maps["image"])


def test_ratio_and_relative_difference_agree(lxmert):
    inputs = question(6, 6, 9)
    pair = [targets.Ratio(0, 1), targets.RelativeDifference(0, 1)]
    found = hetexp.explain(lxmert, inputs, ["ours_full"], pair)["ours_full"]["image"]
    close(found[0], found[1])


@pytest.mark.parametrize("name", NAMES)
def test_padded_image_has_the_relevance_of_the_unpadded_one(detr, name):
    pixels = image(7, 48, 80)
    plain = hetexp.explain(detr, {"pixel_values": pixels}, name, targets.Logit(query=2))[name]["image"]
    padded = torch.zeros(1, 3, 96, 112, dtype=torch.float64)
    padded[:, :, :48, :80] = pixels
    mask = torch.zeros(1, 96, 112, dtype=torch.long)
    mask[:, :48, :80] = 1
    found = hetexp.explain(detr, {"pixel_values": padded, "pixel_mask": mask}, name, targets.Logit(query=2))[name]
    assert found["image"].shape == (1, 6, 7)
    close(found["image"][:, :3, :5], plain)
    assert found["image"][:, 3:].abs().max() == 0
    assert found["image"][:, :, 5:].abs().max() == 0


def test_a_batch_of_images_equals_single_images(detr):
    sizes = [(48, 80), (64, 64), (48, 80)]
    singles = [image(20 + i, *s) for i, s in enumerate(sizes)]
    batch = torch.zeros(3, 3, 64, 80, dtype=torch.float64)
    mask = torch.zeros(3, 64, 80, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        batch[i, :, :h, :w], mask[i, :h, :w] = singles[i][0], 1
    wanted = [[targets.Logit(query=q) for q in range(i + 1)] for i in range(3)]  # different numbers of targets
    traces = detr.trace({"pixel_values": batch, "pixel_mask": mask}, wanted)
    table = {name: METHODS[name] for name in NAMES}
    for i, trace in enumerate(traces):
        together = attribute(trace, table)
        alone = hetexp.explain(detr, {"pixel_values": singles[i]}, table, wanted[i])
        h, w = alone["gae"]["image"].shape[1:]
        for name in NAMES:
            close(together[name]["image"][:, :h, :w], alone[name]["image"])


def test_a_batch_of_questions_equals_single_questions(lxmert):
    parts = [question(30 + i, t, r) for i, (t, r) in enumerate([(5, 9), (8, 3), (3, 1)])]
    batch = {
        "input_ids": torch.zeros(3, 8, dtype=torch.long),
        "attention_mask": torch.zeros(3, 8, dtype=torch.long),
        "visual_feats": torch.zeros(3, 9, 10, dtype=torch.float64),
        "visual_pos": torch.zeros(3, 9, 4, dtype=torch.float64),
        "visual_attention_mask": torch.zeros(3, 9, dtype=torch.long),
    }
    for i, p in enumerate(parts):
        t, r = p["input_ids"].shape[1], p["visual_feats"].shape[1]
        batch["input_ids"][i, :t], batch["attention_mask"][i, :t] = p["input_ids"][0], 1
        batch["visual_feats"][i, :r], batch["visual_pos"][i, :r] = p["visual_feats"][0], p["visual_pos"][0]
        batch["visual_attention_mask"][i, :r] = 1
    table = {name: METHODS[name] for name in NAMES}
    for p, trace in zip(parts, lxmert.trace(batch, [[targets.Logit()]] * 3), strict=True):
        together, alone = attribute(trace, table), hetexp.explain(lxmert, p, table)
        for name in NAMES:
            for stream, found in together[name].items():
                n = alone[name][stream].shape[1]
                close(found[:, :n], alone[name][stream])
                assert found[:, n:].abs().sum() == 0


def test_memory_budgets_change_no_number():
    pixels = image(8)
    wide, narrow = random_detr(8), random_detr(8)
    narrow.byte_budget = 1
    wanted = [[targets.Logit(query=q) for q in range(5)]]
    table = {name: METHODS[name] for name in NAMES}
    one = attribute(wide.trace({"pixel_values": pixels}, wanted)[0], table)
    other = attribute(narrow.trace({"pixel_values": pixels}, wanted)[0], table, byte_budget=1)
    for name in NAMES:
        close(other[name]["image"], one[name]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_close(name):
    tolerance = 1e-3 if name == "grad_cam" else 1e-4
    pixels, inputs = image(9), question(9, 6, 9)
    for build, given, kwargs in (
        (random_detr, {"pixel_values": pixels}, {"targets": [targets.Logit(0, query=q) for q in range(4)]}),
        (random_lxmert, inputs, {"targets": targets.Logit(2)}),
    ):
        exact = hetexp.explain(build(9), given, name, **kwargs)[name]
        adapter = build(9)
        adapter.model.float()
        rough = hetexp.explain(adapter, given, name, **kwargs)[name]
        for stream, maps in exact.items():
            for a, b in zip(rough[stream], maps, strict=True):
                close(a, b, tolerance)


def test_paper_section_4_equivalence(detr, lxmert):
    """pos, no normalisation and R_qk += A R_kk in place of Eq. 10: ours and GAE are the same."""
    pixels = image(10)
    program = oracle.detr_program(detr.model, {"pixel_values": pixels}, 0, lambda row: row.max())
    reduced = oracle.gae(program, nan_to_zero=True, normalise=False, rule10=False)["image"]
    close(
        hetexp.explain(detr, {"pixel_values": pixels}, "ours_pos", targets.Logit(query=0))["ours_pos"]["image"], reduced
    )
    plain = hetexp.explain(detr, {"pixel_values": pixels}, {"m": Gae(normalise=False)}, targets.Logit(query=0))["m"]
    close(plain["image"], oracle.gae(program, nan_to_zero=True, normalise=False)["image"])


def test_gae_drops_decoder_layers_whose_normalisation_is_undefined():
    adapter = random_detr(11)
    with torch.no_grad():  # queries start at 0: without a value bias, decoder layer 0 has zero rows for every query
        adapter.model.model.decoder.layers[0].self_attn.v_proj.bias.zero_()
    pixels = image(11)
    found = hetexp.explain(adapter, {"pixel_values": pixels}, "gae", targets.Logit(query=0))["gae"]["image"]
    program = oracle.detr_program(adapter.model, {"pixel_values": pixels}, 0, lambda row: row.max())
    close(found, oracle.gae(program, nan_to_zero=True)["image"])
    full = oracle.gae(program, nan_to_zero=True, normalise=False)["image"]
    assert not torch.allclose(found.flatten(), full)


def test_random_control_repeats_itself(detr):
    pixels = image(12)
    wanted = [targets.Logit(query=q) for q in (0, 1)]
    one, two = (hetexp.explain(detr, {"pixel_values": pixels}, "random", wanted)["random"]["image"] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    other = hetexp.explain(detr, {"pixel_values": image(13)}, "random", wanted)["random"]["image"]
    assert not torch.equal(one, other)


def test_no_target_gives_empty_maps(detr):
    detr_strict = random_detr(0)
    detr_strict.keep = 0.9999999
    found = hetexp.explain(detr_strict, {"pixel_values": image(1)}, NAMES)
    for name in NAMES:
        assert found[name]["image"].shape == (0, 4, 5)


def test_a_failing_model_is_left_without_hooks(detr, lxmert, monkeypatch):
    for adapter, inputs, part in (
        (detr, {"pixel_values": image(1)}, detr.model.model.decoder.layers[-1].mlp),
        (lxmert, question(1, 5, 4), lxmert.model.lxmert.pooler),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, "forward", lambda *a: (_ for _ in ()).throw(RuntimeError("broken")))
            with pytest.raises(RuntimeError, match="broken"):
                hetexp.explain(adapter, inputs, ["gae"])
        for module in adapter.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        assert all(p.grad is None for p in adapter.model.parameters())


def test_bad_requests_name_themselves(detr, lxmert):
    pixels = {"pixel_values": image(1)}
    with pytest.raises(ConfigError, match="Available methods: ours_abs"):
        hetexp.explain(detr, pixels, "nope")
    with pytest.raises(InputError, match="queries 0 to 8"):
        hetexp.explain(detr, pixels, "gae", targets.Logit(query=9))
    with pytest.raises(InputError, match="class 6 does not exist"):
        hetexp.explain(detr, pixels, "gae", targets.Logit(6, query=0))
    with pytest.raises(InputError, match="one input at a time"):
        hetexp.explain(detr, {"pixel_values": torch.zeros(2, 3, 64, 64)}, "gae")
    with pytest.raises(InputError, match="leave query unset"):
        hetexp.explain(lxmert, question(1, 5, 4), "gae", targets.Logit(query=0))
    with pytest.raises(InputError, match="at most 24"):
        hetexp.explain(lxmert, question(1, 25, 4), "gae")
    holes = torch.ones(1, 64, 80)
    holes[0, 10, 10] = 0
    with pytest.raises(InputError, match="one rectangle"):
        hetexp.explain(detr, {**pixels, "pixel_mask": holes}, "gae")
    with pytest.raises(ConfigError, match="Available targets"):
        targets.automatic("nope")
    with pytest.raises(ConfigError, match="unknown noise link"):
        Ours("pos", "maybe")
    with pytest.raises(ConfigError, match="unknown correction"):
        Ours("neg")
