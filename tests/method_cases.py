"""A model, an input, one target and the oracle's run of them, for the tests of single methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import oracle
import sampled_models
import torch
from compare import distance
from mixture_oracle import run_mixture
from sampled_oracle import run_sampled
from text_models import tiny_bart
from tiny import picture, question, tiny_detr, tiny_lxmert
from torch import Tensor

from hetexp.api import explain
from hetexp.attribution.method import NeedsPasses
from hetexp.attribution.registry import METHODS, get_method
from hetexp.models.detr import DetrAdapter
from hetexp.models.encoder_decoder import BartAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.protocols import Adapter
from hetexp.targets import Logit

PASSING = [name for name, record in METHODS.items() if isinstance(record.build(), NeedsPasses)]


@dataclass
class Case:
    """A model, an input, one target, and what the twins need of them."""

    adapter: Adapter
    inputs: dict[str, Tensor]
    target: Logit
    rerun: Callable[[], oracle.Run]
    forward: Callable[[], Tensor]  # the target's y, with a graph

    def __post_init__(self) -> None:
        self.run = self.rerun()

    def found(self, method: Any) -> dict[str, Tensor]:
        """Raw relevance [N] by source, of a method or of one by name."""
        built = get_method(method).build() if isinstance(method, str) else method
        relevance = explain(self.adapter, self.inputs, {"it": built}, self.target)
        return {s: relevance.tokens("it", s)[0, : self.run.sizes[s]] for s in self.run.sources}

    def check(self, method: Any, want: dict[str, Tensor]) -> None:
        """Compare a method with what its twin gives."""
        got = self.found(method)
        assert set(got) == set(want)
        for source, rows in got.items():
            assert float(want[source].abs().max()) > 0
            assert distance(rows[None], want[source][None]) <= 1e-8, source


def detr_case() -> Case:
    model, pixels = tiny_detr(3, heads=4, decoder_layers=3), picture(48, 64, seed=4)
    return Case(
        DetrAdapter(model),
        {"pixel_values": pixels},
        Logit(1, 2),
        lambda: oracle.run_detector(model, pixels, 2, Logit(1)),
        lambda: model(pixel_values=pixels).logits[0, 2, 1],
    )


def deformable_case() -> Case:
    kind = sampled_models.CASES["deformable_detr-refined"]
    model: Any = kind.build(0)
    pixels, wiring = picture(64, 48, seed=3), kind.wiring(model)
    return Case(
        kind.adapter(model),
        {"pixel_values": pixels},
        Logit(1, 2),
        lambda: run_sampled(model, pixels, 2, Logit(1), wiring.encoder, wiring.decoder, wiring.projection),
        lambda: model(pixel_values=pixels).logits[0, 2, 1],
    )


def lxmert_case() -> Case:
    model, inputs = tiny_lxmert(3, heads=4), question(6, 5, seed=1)
    return Case(
        LxmertAdapter(model),
        inputs,
        Logit(1),
        lambda: oracle.run_lxmert(model, inputs, Logit(1)),
        lambda: model(**inputs).question_answering_score[0, 1],
    )


def bart_case() -> Case:
    """The token of the middle is explained, so that what follows must be left out."""
    model = tiny_bart()
    random = torch.Generator().manual_seed(1)
    inputs = {
        k: torch.randint(4, 24, (1, n), generator=random) for k, n in (("input_ids", 7), ("decoder_input_ids", 5))
    }
    prefix = inputs["decoder_input_ids"][:, :4]
    links = [("text", "text")] * 2 + [("target", "target"), ("target", "text")] * 2
    first = {"text": model.model.encoder.layers[0], "target": model.model.decoder.layers[0]}

    def forward() -> Tensor:
        out: Tensor = model(input_ids=inputs["input_ids"], decoder_input_ids=prefix, use_cache=False).logits[0, -1, 9]
        return out

    return Case(
        BartAdapter(model), inputs, Logit(9, 3), lambda: run_mixture(forward, links, 2, first, "target", 3), forward
    )


CASES = {"detr": detr_case, "deformable_detr": deformable_case, "lxmert": lxmert_case, "bart": bart_case}
