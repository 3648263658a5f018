"""Detectors with deformable attention: every method against the dense oracle, padding, layout, memory, loading."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import pandas as pd
import pytest
import torch
from compare import distance, tolerance
from own_checkpoints import category_names
from sampled_models import CASES, CLASSES, SIZE, Case
from sampled_oracle import run_sampled
from tiny import picture, tiny_deformable_detr
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hetexp
from hetexp.attribution import corrections, maps
from hetexp.config import composed
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.explain_own import explain_own
from hetexp.experiments.tasks import evaluate
from hetexp.models.deformable_detr import DeformableDetrAdapter
from hetexp.models.trace import Layout, Level
from hetexp.models.watch import Watch
from hetexp.paths import asset
from hetexp.targets import BoxSide, Logit

OURS = ["ours_abs", "ours_pos", "ours_noised", "ours_full"]
METHODS = ["gae", "odam", *OURS, "raw_attention", "rollout", "grad_cam"]
EXPLAINED = 3
TARGETS = [Logit(q % CLASSES, query=q) for q in range(EXPLAINED)]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


# -- the methods -----------------------------------------------------------------------------------------------


def test_every_method_equals_the_oracle(case: Case) -> None:
    model, pixels = case.build(2), picture(*SIZE, seed=3)
    wiring = case.wiring(model)
    runs = [
        run_sampled(model, pixels, q, Logit(q % CLASSES), wiring.encoder, wiring.decoder, wiring.projection)
        for q in range(EXPLAINED)
    ]
    for dtype in (torch.float64, torch.float32):
        adapter = case.adapter(copy.deepcopy(model).to(dtype))
        found = hetexp.explain(adapter, {"pixel_values": pixels.to(dtype)}, METHODS, TARGETS)
        for method in METHODS:
            want = torch.stack([oracle.METHODS[method](run)["image"] for run in runs])
            assert float(want.abs().max()) > 0
            assert distance(found.tokens(method, "image"), want) <= tolerance(method, dtype), (method, dtype)


def test_box_targets_equal_the_oracle(case: Case) -> None:
    model, pixels = case.build(1), picture(*SIZE, seed=4)
    wiring = case.wiring(model)
    run = run_sampled(model, pixels, 2, BoxSide("top"), wiring.encoder, wiring.decoder, wiring.projection, of="box")
    found = hetexp.explain(case.adapter(model), {"pixel_values": pixels}, METHODS, BoxSide("top", query=2))
    for method in METHODS:
        want = oracle.METHODS[method](run)["image"][None]
        assert distance(found.tokens(method, "image"), want) <= 1e-9, method


@pytest.mark.parametrize("name", ["rt_detr", "d_fine", "deimv2-lite"])
def test_features_after_the_encoder_equal_the_oracle(name: str) -> None:
    """Those that the decoder reads, on request."""
    case = CASES[name]
    model, pixels = case.build(2), picture(*SIZE, seed=5)
    wiring = case.wiring(model)
    memory = list(model.model.decoder_input_proj)
    run = run_sampled(model, pixels, 1, Logit(1), wiring.encoder, wiring.decoder, memory)
    methods = {"odam": hetexp.METHODS["odam"].build({"feature": "encoder"})}
    found = hetexp.explain(case.adapter(model), {"pixel_values": pixels}, methods, Logit(1, query=1))
    assert distance(found.tokens("odam", "image"), oracle.odam(run)["image"][None]) <= 1e-9


def test_levels_that_attend_nothing_keep_their_row() -> None:
    """One map of RT-DETR's encoder concerns the coarsest level alone: what GAE gives the others is the decoder's."""
    case = CASES["rt_detr"]
    trace = case.adapter(case.build(0)).trace({"pixel_values": picture(*SIZE)}, [TARGETS])[0]
    (attention,) = (step for group in trace.encoder for step in group)
    start = sum(h * w for h, w in case.grids[:-1])
    assert attention.query_index is not None
    assert attention.query_index.tolist() == list(range(start, trace.sizes["image"]))
    assert attention.key_index is not None
    assert torch.equal(attention.query_index, attention.key_index)
    gae = hetexp.METHODS["gae"].build()
    made = corrections.CorrectedMaps(["pos"], trace.sizes)
    whole = gae(trace, made)["image"]
    decoder_alone = gae(_without_encoder(trace), made)["image"]
    assert torch.equal(whole[:, :start], decoder_alone[:, :start])
    assert bool((whole[:, start:] != decoder_alone[:, start:]).any())


def _without_encoder(trace: Any) -> Any:
    return type(trace)(**{**vars(trace), "encoder": ()})


# -- the model itself ------------------------------------------------------------------------------------------


def test_detections_are_the_model_s_own(case: Case) -> None:
    model, pixels = case.build(3), picture(*SIZE, seed=4)
    (found,) = case.adapter(model).detect({"pixel_values": pixels})
    own = model(pixel_values=pixels)
    assert torch.allclose(found.logits, own.logits[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.boxes, own.pred_boxes[0], rtol=0, atol=1e-11)
    assert torch.allclose(found.scores, own.logits[0].sigmoid().amax(-1), rtol=0, atol=1e-11)
    (trace,) = case.adapter(model).trace({"pixel_values": pixels}, [[Logit(0, query=0)]])
    assert torch.allclose(trace.outputs["logits"], own.logits[0], rtol=1e-6, atol=1e-6)  # LW-DETR's softmax is single


class Stop(Exception):
    pass


@dataclass(frozen=True)
class Failing:
    """A target that cannot be computed."""

    query: int

    def __call__(self, prediction: Tensor) -> Tensor:
        raise Stop


@pytest.mark.parametrize("where", ["nowhere", "forward", "target"])
def test_the_model_is_left_as_it_was(case: Case, where: str) -> None:
    model, pixels = case.build(4), picture(*SIZE, seed=5)
    adapter = case.adapter(model)
    before, state = model(pixel_values=pixels), _state(model)

    def stop(*_: Any) -> None:
        raise Stop

    target = Failing(query=0) if where == "target" else Logit(0, query=0)
    handle = model.model.decoder.layers[-1].register_forward_hook(stop) if where == "forward" else None
    try:
        hetexp.explain(adapter, {"pixel_values": pixels}, ["odam", "ours_pos"], target)
    except Stop:
        assert where != "nowhere"
    else:
        assert where == "nowhere"
    if handle is not None:
        handle.remove()
    assert _state(model) == state
    after = model(pixel_values=pixels)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.pred_boxes, before.pred_boxes)


def _state(model: Any) -> list[Any]:
    """What observing touches: attributes, hooks, submodules and the way to attend, of every module."""
    state: list[Any] = []
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("hooks")}
        state.append((name, sorted(vars(module)), hooks, [id(child) for child in module.children()]))
        state.append([(p.requires_grad, p.grad is None) for p in module.parameters(recurse=False)])
        if hasattr(module, "config"):
            state.append(module.config._attn_implementation)
        state.append(getattr(module, "inplace", None))
    return state


@pytest.mark.parametrize("name", ["rt_detr", "deimv2", "deimv2-vit", "lw_detr", "rf_detr"])
def test_the_backbone_runs_in_the_precision_that_was_asked_for(name: str) -> None:
    """Relevance is in the model's own, and the model's own pass is as before."""
    model, pixels = CASES[name].build(0).float(), picture(*SIZE, dtype=torch.float32)
    before = model(pixel_values=pixels).logits
    plain, half = (CASES[name].adapter(model, autocast=autocast) for autocast in (None, "bfloat16"))
    for adapter, same in ((plain, True), (half, False)):
        (found,) = adapter.detect({"pixel_values": pixels})
        assert torch.allclose(found.logits, before[0], rtol=0, atol=1e-5) == same
        explanation = hetexp.explain(adapter, {"pixel_values": pixels}, ["ours_pos"], Logit(0, query=0))
        assert explanation["ours_pos"]["image"].dtype == torch.float32
    assert torch.equal(model(pixel_values=pixels).logits, before)


# -- padding and levels ----------------------------------------------------------------------------------------


def test_a_padded_batch_equals_single_images(case: Case) -> None:
    adapter = case.adapter(case.build(0))
    wide, square = picture(*SIZE, seed=6), picture(64, 64, seed=7)
    pixels = torch.zeros(2, 3, *SIZE, dtype=torch.float64)
    mask = torch.zeros(2, *SIZE)
    for row, image in enumerate((square, wide)):
        pixels[row, :, : image.shape[2], : image.shape[3]] = image
        mask[row, : image.shape[2], : image.shape[3]] = 1
    together = hetexp.explain(adapter, {"pixel_values": pixels, "pixel_mask": mask}, METHODS, TARGETS)
    for item, image in enumerate((square, wide)):
        alone = hetexp.explain(adapter, {"pixel_values": image}, METHODS, TARGETS)
        for method in METHODS:
            assert distance(together.item(item)[method]["image"], alone[method]["image"]) <= 1e-9, method
            rows = slice(item * EXPLAINED, (item + 1) * EXPLAINED)
            assert (
                distance(
                    together.tokens(method, "image")[rows].sum(1, keepdim=True),
                    alone.tokens(method, "image").sum(1, keepdim=True),
                )
                <= 1e-9
            )  # nothing on padding


def test_tokens_are_in_the_model_s_order_and_the_picture_is_on_the_finest_grid(case: Case) -> None:
    adapter = case.adapter(case.build(0))
    found = hetexp.explain(adapter, {"pixel_values": picture(*SIZE)}, ["ours_full"], TARGETS)
    tokens, image = found.tokens("ours_full", "image"), found["ours_full"]["image"]
    assert tokens.shape == (EXPLAINED, sum(h * w for h, w in case.grids))
    assert image.shape == (EXPLAINED, *case.grids[0])
    assert torch.allclose(image.sum((1, 2)), tokens.sum(1), rtol=0, atol=1e-14)
    want, start = torch.zeros_like(image), 0
    height, width = case.grids[0]
    for h, w in case.grids:  # here every coarse cell covers a whole number of fine ones
        level = tokens[:, start : start + h * w].reshape(-1, h, w)
        down, across = height // h, width // w
        want += level.repeat_interleave(down, 1).repeat_interleave(across, 2) / (down * across)
        start += h * w
    assert torch.allclose(image, want, rtol=0, atol=1e-14)


def test_grids_that_do_not_divide_keep_the_mass() -> None:
    """3 x 4 cells spread over 5 x 7: each fine cell takes the share of each coarse one that lies in it."""
    levels = (Level((6, 8), (5, 7)), Level((3, 4), (3, 4)))
    layout = Layout((6, 8), torch.arange(60), levels=levels)
    tokens = torch.rand(2, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens[:, :48].view(2, 6, 8)[:, 5:] = tokens[:, :48].view(2, 6, 8)[:, :, 7:] = 0  # padding
    image = layout.picture(tokens)
    assert image.shape == (2, 6, 8)
    assert torch.allclose(image.sum((1, 2)), tokens.sum(1), rtol=0, atol=1e-13)
    assert bool((image[:, 5:] == 0).all() and (image[:, :, 7:] == 0).all())
    one = torch.zeros(1, 60, dtype=torch.float64)
    one[0, 48 + 1] = 1  # row 0, column 1 of the coarse grid: rows 0 to 5/3, columns 7/4 to 14/4 of the fine one
    rows = torch.tensor([1, 2 / 3, 0, 0, 0, 0], dtype=torch.float64)
    columns = torch.tensor([0, 1 / 4, 1, 1 / 2, 0, 0, 0, 0], dtype=torch.float64)
    want = rows[:, None] * columns / (5 / 3 * 7 / 4)
    assert torch.allclose(layout.picture(one)[0], want, rtol=0, atol=1e-15)


# -- deformable attention --------------------------------------------------------------------------------------


def test_maps_times_values_are_what_the_library_samples(case: Case) -> None:
    """A V of every observed module is the output that the library computes."""
    model = case.build(5)
    adapter = case.adapter(model)
    watch = Watch({wire.name: wire.module for wire in (*adapter.encoder_wires(), *adapter.decoder_wires())})
    with torch.no_grad(), watch.watching(model):
        model(pixel_values=picture(*SIZE, seed=8))
    assert any(seen.indices is not None for seen in watch.calls)
    for seen in watch.calls:
        dense = seen.probabilities
        if seen.indices is not None:
            dense = dense.new_zeros(*dense.shape[:3], seen.values.shape[2]).scatter_add_(3, seen.indices, dense)
        output = seen.by_head(seen.output[None])[0]
        error = (dense @ seen.values - output).abs().max() / output.abs().max()
        assert float(error) <= 2e-15, seen.name


class _Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor made inside holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *made])
        return out


def test_no_dense_map_of_a_sampled_step_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From pixels to relevance no tensor is as large as half of one head's tokens x tokens."""
    for module in (corrections, maps):
        monkeypatch.setattr(module, "block_bytes", lambda device: 2**18)
    adapter = DeformableDetrAdapter(tiny_deformable_detr(0))
    pixels = picture(256, 384)
    tokens = sum(h * w for h, w in ((32, 48), (16, 24), (8, 12)))
    with _Largest() as largest:
        hetexp.explain(adapter, {"pixel_values": pixels}, METHODS, [Logit(0, query=0)])
    entries = tokens * 4 * 3 * 4 * 4  # heads x levels x points x corners of a point
    assert entries <= largest.numbers < tokens**2 / 2


# -- checkpoints -----------------------------------------------------------------------------------------------


@pytest.fixture(
    params=["deformable_detr", "rt_detr", "rt_detr_v2", "d_fine", "deimv2", "deimv2-vit", "lw_detr", "rf_detr"]
)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of a small random model with classes of the embedded scenes."""
    case = CASES[request.param]
    model = case.build(0).float()
    model.config.id2label = dict(enumerate(category_names()[:CLASSES]))
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    case.adapter.processor_class(size={"height": SIZE[0], "width": SIZE[1]}).save_pretrained(folder)
    return folder


def test_a_folder_is_enough(checkpoint: Path, tmp_path: Path) -> None:
    """Loading, `task=evaluate` and `task=explain` by the folder alone."""
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    adapter = hetexp.load_model(checkpoint, score_threshold=0.25)
    assert (adapter.name, adapter.score_threshold) == (kind, 0.25)
    shared = [
        "model=auto",
        f"model.checkpoint={checkpoint}",
        "model.score_threshold=0",
        "progress=false",
        f"paths.outputs={tmp_path / 'outputs'}",
    ]
    evaluate(open_session(composed(*shared, "methods=[ours_pos,odam]", "limit=1"), tmp_path / "run"))
    frame = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(frame["model"]) == {kind}
    assert frame[frame["metric"] == "AR"]["value"].notna().all()
    image = asset("scenes/val/images/000001.jpg")
    explain_own(open_session(composed(*shared, "task=explain", f"image={image}", "query=0"), tmp_path / "own"))
    assert (tmp_path / "own" / "explanation.png").stat().st_size > 5_000
