"""Wirings that cannot be, that a pass contradicts, or whose attention cannot be explained, are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unknown_models import of_transformer, plain_transformer

import hetexp
from hetexp.errors import ConfigError, InputError
from hetexp.models.matching import matched
from hetexp.models.watch import Seen as Observed
from hetexp.models.wiring_file import WiredSource, WiredStep, Wiring
from hetexp.targets import Logit


def wired(**changes: Any) -> Wiring:
    return replace(hetexp.propose(plain_transformer(), of_transformer()), **changes)


CROSS_STEP = WiredStep("decoder.layers.0.multihead_attn", "tgt", "src")
SRC, TGT = WiredSource("src"), WiredSource("tgt")


def test_wirings_that_cannot_be_are_refused() -> None:
    proposed = wired()
    with pytest.raises(ConfigError, match="source 'image' is a part of stream 'pixels', which no step has"):
        wired(sources={"image": WiredSource("pixels")})
    with pytest.raises(ConfigError, match="read from stream 'answer', which no step has: its steps have src, tgt"):
        wired(readouts={"answer": "0"})
    with pytest.raises(ConfigError, match="needs sources and readouts"):
        wired(readouts={})
    with pytest.raises(ConfigError, match="move it to fusion"):
        wired(encoder=(*proposed.encoder, CROSS_STEP))
    with pytest.raises(ConfigError, match=r"decoder\.layers\.0\.multihead_attn is listed twice"):
        wired(fusion=(*proposed.fusion, (CROSS_STEP,)))
    with pytest.raises(ConfigError, match="causal names stream 'src'"):
        wired(causal="src")
    with pytest.raises(ConfigError, match="holds the sources a, b, which mix in step encoder"):
        wired(sources={"a": WiredSource("src", "0:2"), "b": WiredSource("src", "2:")})
    with pytest.raises(ConfigError, match="no step"):
        wired(encoder=(), fusion=())


def with_module(group: tuple[WiredStep, ...], **changes: Any) -> tuple[WiredStep, ...]:
    return (replace(group[0], **changes),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda w: {"fusion": w.fusion[:-1]}, "observed, but not wired: decoder.layers.1.multihead_attn"),
        (
            lambda w: {"fusion": (*w.fusion, (WiredStep("decoder.layers.1.linear1", "tgt", "tgt"),))},
            "no attention was observed there: decoder.layers.1.linear1",
        ),
        (
            lambda w: {"fusion": (*w.fusion[:-1], with_module(w.fusion[-1], key="tgt"))},
            "token counts of stream 'tgt' disagree: .* are 4, the keys of decoder.layers.1.multihead_attn are 6",
        ),
        (
            lambda w: {"fusion": (w.fusion[2], w.fusion[1], w.fusion[0], w.fusion[3])},
            "is wired after .*, and ran before it",
        ),
        (lambda w: {"readouts": {"tgt": "0"}}, "read from token 3 of stream 'tgt', and .* name token 0"),
        (lambda w: {"readouts": {"tgt": "0:2"}}, "names 2 tokens .* for 4 rows"),
        (lambda w: {"readouts": {"src": "0:4"}, "causal": None}, "read from token 0 of stream 'tgt', and .* name none"),
        (
            lambda w: {"readouts": {"src": "0", "tgt": ":"}, "causal": None},
            "name stream 'src', and row 0 .* is not read",
        ),
        (lambda w: {"readouts": {"tgt": "9"}}, 'names tokens "9" of a stream of 4'),
        (lambda w: {"sources": {"src": SRC, "tgt": replace(TGT, tokens="4:")}}, 'names tokens "4:" of a stream of 4'),
        (lambda w: {"sources": {"src": replace(SRC, grid=(2, 2)), "tgt": TGT}}, "a grid of 2 × 2 and 6 tokens"),
        (lambda w: {"output": "logits"}, "output: logits is no tensor of what the model returned"),
    ],
)
def test_what_a_pass_contradicts_is_refused(changes: Callable[[Wiring], dict[str, Any]], message: str) -> None:
    adapter = hetexp.wrap(plain_transformer(), wired(**changes(wired())))
    with pytest.raises(ConfigError, match=message):
        hetexp.explain(adapter, of_transformer(), ["ours_abs"], Logit(0, query=1))
    assert not adapter.model._forward_hooks


def test_causal_is_compared_with_the_maps() -> None:
    inputs = of_transformer()
    del inputs["tgt_mask"]
    adapter = hetexp.wrap(plain_transformer(), wired())
    with pytest.raises(
        ConfigError, match=r"causal is 'tgt', and in decoder\.layers\.0\.self_attn its tokens attend later"
    ):
        hetexp.explain(adapter, inputs, ["ours_abs"], Logit(0, query=1))


def test_attention_that_cannot_be_explained_is_refused() -> None:
    model = plain_transformer()
    two = {name: torch.cat([x, x]) if x.ndim == 3 else x for name, x in of_transformer().items()}
    with pytest.raises(InputError, match="one input at a time"):
        hetexp.explain(hetexp.wrap(model, wired()), two, ["ours_abs"], Logit(0, query=1))
    with pytest.raises(ConfigError, match=r"Transformer has no module encoder\.layers\.7"):
        hetexp.wrap(model, wired(encoder=(WiredStep("encoder.layers.7.self_attn", "src", "src"),)))
    with pytest.raises(InputError, match="no attention was observed in Linear"):
        hetexp.propose(nn.Linear(3, 3), {"input": torch.randn(1, 3)})
    with pytest.raises(InputError, match="has 4 rows of logits: name one"):
        hetexp.explain(hetexp.wrap(model, wired(causal=None)), of_transformer(), ["ours_abs"], Logit(0))


def test_a_pooled_prediction_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0].mean(1)

    with pytest.raises(InputError, match="read from 5 tokens of stream 'x' at once"):
        hetexp.propose(Pooled(), {"x": torch.randn(1, 5, 8)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fusion: [", "is no YAML"),
        ("steps: []", "has no key steps"),
        ("fusion: [{module: a, query: x}]", "is not understood"),
        ("encoder: []", "has no step"),
    ],
)
def test_files_that_are_no_wiring(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wiring.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Wiring.load(path)
    with pytest.raises(ConfigError, match="there is no wiring"):
        Wiring.load(tmp_path / "absent.yaml")


class Scaled(nn.Module):
    """Changes its map after the softmax, as no attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        return x + (q @ k.transpose(1, 2)).softmax(-1).mul(0.5) @ v


def test_a_map_must_be_one_and_make_the_output() -> None:
    inputs = {"x": torch.randn(1, 5, 8)}
    wiring = hetexp.propose(Scaled(), inputs)
    with pytest.raises(InputError, match="do not sum to 1"):
        hetexp.explain(hetexp.wrap(Scaled(), wiring), inputs, ["ours_abs"], Logit(0, query=1))
    a, v = torch.eye(3).expand(1, 2, 3, 3), torch.randn(1, 2, 3, 4)
    one = Wiring((WiredStep("m", "x", "x"),), (), {"x": WiredSource("x")}, {"x": ":"})
    assert list(matched(one, [Observed("m", a, v, a @ v)])) == ["m"]
    with pytest.raises(InputError, match="the output of m is not its map times its values"):
        matched(one, [Observed("m", a, v, a @ v + 0.1)])
