"""Packed sequences against each sequence alone, and that no padding is computed and no input twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_joint_streams import vilt, visual_bert
from tiny import tiny_lxmert
from torch import Tensor, nn

from hetexp.models.joint_stream import JointAnswerer
from hetexp.models.lxmert import LxmertAdapter
from hetexp.models.packed import attended, blocks, by_length, inverse, pack_distinct, projected
from hetexp.models.vilt import ViltAdapter
from hetexp.models.visual_bert import VisualBertAdapter

LENGTHS = [(3, 0), (2, 4), (2, 4), (5, 4), (1, 7)]  # queries, keys


@contextmanager
def rows_counted(module: Any) -> Iterator[list[int]]:
    """Rows that each call of a module computes."""
    counts: list[int] = []
    handle = module.register_forward_hook(lambda module, args, output: counts.append(output.shape[:-1].numel()))
    yield counts
    handle.remove()


def test_attention_is_that_of_each_sequence_alone() -> None:
    torch.manual_seed(0)
    queries, keys, values = ([torch.randn(n[i], 8).double() for n in LENGTHS] for i in (0, 1, 1))
    among = blocks(*zip(*LENGTHS, strict=True))
    assert among == [(1, 3, 0), (2, 2, 4), (1, 5, 4), (1, 1, 7)]
    got = attended(torch.cat(queries), torch.cat(keys), torch.cat(values), among, heads=2)
    for one, q, k, v in zip(got.split([n for n, _ in LENGTHS]), queries, keys, values, strict=True):
        for head in (slice(0, 4), slice(4, 8)):
            want = (q[:, head] @ k[:, head].T / 2).softmax(-1) @ v[:, head]
            assert torch.allclose(one[:, head], want, rtol=0, atol=1e-12)
    assert not got[:3].any(), "attention over nothing returns nothing"


@pytest.mark.parametrize("bias", [True, False])
def test_one_product_is_that_of_every_layer(bias: bool) -> None:
    torch.manual_seed(0)
    layers, x = [nn.Linear(4, 3, bias).double() for _ in range(3)], torch.randn(5, 4).double()
    assert torch.allclose(projected(layers, x), torch.cat([layer(x) for layer in layers], -1), rtol=0, atol=1e-12)


def test_a_part_that_recurs_is_there_once() -> None:
    a, b, none = torch.randn(2, 3), torch.randn(4, 3), torch.zeros(0, 3)
    parts = [a, b, none, a, b]
    distinct, rows = pack_distinct(parts)
    assert torch.equal(distinct, torch.cat([a, b]))
    assert torch.equal(distinct[rows], torch.cat(parts))


def test_an_order_is_undone() -> None:
    order = by_length([3, 1, 3, 2], [5, 9, 4, 0])
    assert order == [1, 3, 2, 0]
    assert [order[i] for i in inverse(order)] == [0, 1, 2, 3]


def test_lxmert_computes_no_padding_and_no_shared_part_twice() -> None:
    adapter = LxmertAdapter(tiny_lxmert())
    encoder = adapter.model.lxmert.encoder
    regions = [(torch.randn(n, adapter.feature_width).double(), torch.rand(n, 4).double()) for n in (6, 2)]
    with rows_counted(encoder.r_layers[-1].intermediate) as counts:
        image, other, nothing = adapter.encode_regions([*(whole := adapter.embed_regions(regions)), whole[0][:0]])
    assert counts == [6 + 2]
    with rows_counted(encoder.layer[-1].intermediate) as counts:
        text, longer = adapter.encode_texts([torch.tensor([1, 5, 2]), torch.tensor([1, 5, 6, 7, 2])])
    assert counts == [3 + 5]
    products: list[int] = []
    with rows_counted(encoder.x_layers[0].lang_inter) as words, rows_counted(encoder.x_layers[0].visn_inter) as seen:
        original = torch.nn.functional.linear

        def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            products.append(len(x))
            return original(x, weight, bias)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hetexp.models.packed.linear", noted)
            adapter.answer_parts([text, text, text, longer], [image, other, nothing, image])
    assert (words, seen) == ([3 + 3 + 3 + 5], [6 + 2 + 0 + 6])
    assert products[0] == 3 + 5 + 6 + 2, "in the first cross layer a part is projected once"


@pytest.mark.parametrize(("adapter_class", "build"), [(VisualBertAdapter, visual_bert), (ViltAdapter, vilt)])
def test_joint_streams_compute_no_padding_and_their_last_layer_for_one_token(
    adapter_class: type[JointAnswerer], build: object
) -> None:
    torch.manual_seed(0)
    adapter = adapter_class(build().double())  # type: ignore[operator]
    texts = [torch.tensor([1, 5, 2]), torch.tensor([1, 5, 6, 7, 2]), torch.tensor([1, 6, 2])]
    pairs = [(torch.randn(n, adapter.feature_width).double(), torch.rand(n, 4).double()) for n in (4, 1, 0)]
    regions = adapter.encode_regions(adapter.embed_regions(pairs))
    first, last = adapter.layers[0].intermediate, adapter.layers[-1].intermediate
    with rows_counted(first) as whole, rows_counted(last) as read:
        together = adapter.answer_parts(texts, regions)
    assert (whole, read) == ([sum(map(len, (*texts, *regions)))], [3])
    for row, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        parts = adapter.encode_regions(adapter.embed_regions([pair]))
        inputs = adapter._joined([text], parts)
        assert torch.allclose(together[row], adapter.predict(inputs)[0], rtol=0, atol=1e-12)
