"""Trace and methods on torch's meta device: nothing waits for a value, and no tensor is made on another device."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
import transformers
from compare import general_methods
from model_zoo import ZOO
from tiny import picture
from torch import Tensor

import hetexp
from hetexp.attribution.attribute import attribute, observe, pictures
from hetexp.attribution.method import Method, NeedsPasses
from hetexp.targets import Logit

# Models whose own code looks at values: is a mask full, do shapes given as a tensor fit, how large is a picture?
WAITING = ("dab-detr", "table-transformer", "rt_detr_v2", "d_fine", "deimv2", "vilt", "blip", "whisper")
READING = ("owlvit", "owlv2", "clip", "siglip")  # the text with the largest logit decides what they explain
SAMPLED = ("deformable_detr", "rt_detr", "lw_detr", "rf_detr")  # their maps are sparse


def methods_of(name: str) -> dict[str, Method]:
    """All but those that need values by their nature.

    The control draws its noise from a seed that the logits give. A further pass explains the same y, so it has to know
    the class that was predicted. LeGrad of a sparse map adds up entries that name the same key, whose number depends on
    the values.
    """
    left_out = ("random", "legrad") if name in SAMPLED else ("random",)
    general = general_methods(sampled=name in SAMPLED)
    return {n: m for n, m in general.items() if n not in left_out and not isinstance(m, NeedsPasses)}


def explained(name: str, folder: Path) -> list[tuple[int, dict[str, dict[str, Tensor]]]]:
    """Relevance of a model whose weights are nowhere, from inputs that are on the CPU; and how many targets it has."""
    entry, methods = ZOO[name], methods_of(name)
    entry.write(folder)
    adapter = hetexp.load_model(name, folder)
    adapter.model.to("meta")
    targets = [Logit(index, query) for index, query in entry.targets]
    if name not in READING:
        targets.append(Logit(query=targets[-1].query))
    traces = observe(adapter, entry.inputs(), [targets], methods)
    return [(trace.n_targets, pictures(trace, attribute(trace, methods))) for trace in traces]


@pytest.mark.parametrize("name", [name for name in ZOO if name not in WAITING])
def test_relevance_is_found_without_a_single_value(name: str, tmp_path: Path) -> None:
    found = explained(name, tmp_path)
    assert sum(n for n, _ in found) == len(ZOO[name].targets) + (name not in READING)
    for n, by_method in found:
        assert set(by_method) == set(methods_of(name))
        for relevance in (r for by_source in by_method.values() for r in by_source.values()):
            assert relevance.device == torch.device("meta")
            assert len(relevance) == n


@pytest.mark.parametrize("name", ["yolos", *SAMPLED])
def test_padded_images_wait_for_nothing_but_their_masks(name: str, tmp_path: Path) -> None:
    ZOO[name].write(tmp_path)
    adapter = hetexp.load_model(name, tmp_path)
    adapter.model.to("meta")
    mask = torch.ones(2, 64, 96, dtype=torch.long)
    mask[1, 32:] = 0
    inputs = {"pixel_values": picture(64, 96).expand(2, -1, -1, -1), "pixel_mask": mask}
    methods = {"ours_abs": methods_of(name)["ours_abs"]}
    traces = observe(adapter, inputs, [[Logit(query=0)], [Logit(query=1), Logit(2, query=3)]], methods)
    found = [pictures(trace, attribute(trace, methods))["ours_abs"]["image"] for trace in traces]
    assert [len(relevance) for relevance in found] == [1, 2]


@pytest.mark.parametrize("name", WAITING)
def test_only_the_library_itself_waits_for_values(name: str, tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") as stopped:
        explained(name, tmp_path)
    library, package = (Path(module.__path__[0]) for module in (transformers, hetexp))
    frames = [Path(frame.filename) for frame in traceback.extract_tb(stopped.value.__traceback__)]
    asking = [f for f in frames if f.is_relative_to(library) or (f.is_relative_to(package) and f.stem != "watch")]
    assert asking[-1].is_relative_to(library), asking[-1]
