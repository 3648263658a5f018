"""Strategies of binarisation: levels known by hand, the best level by trying every mask of pixels, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch import Tensor

from hetexp.errors import ConfigError, InputError
from hetexp.evaluation.cells import Cells
from hetexp.evaluation.masks import binarise, otsu, segment, to_uint8
from hetexp.evaluation.thresholds.best_f import BestF
from hetexp.evaluation.thresholds.fixed import Fixed
from hetexp.evaluation.thresholds.otsu import OTSU, otsu_thresholds
from hetexp.evaluation.thresholds.quantile import Quantile
from hetexp.evaluation.thresholds.registry import STRATEGIES, get_strategy
from hetexp.evaluation.thresholds.strategy import GreyMaps, Objects, Strategy
from hetexp.evaluation.upsampling import Tie, Upsampling

SIZES = (48, 64), (60, 80)  # of the input and of the image
# bilinear_relevance thresholds pixels, so that no level of tokens makes its masks
OF_TOKENS = [Upsampling.reference, Upsampling.bilinear, Upsampling.nearest]


def levels(strategy: Strategy, *maps: list[int]) -> list[float]:
    """Thresholds of maps of one row each."""
    return strategy.thresholds([GreyMaps(torch.tensor(maps, dtype=torch.uint8)[:, None])])[0].tolist()


def test_every_strategy_is_made_by_its_name() -> None:
    assert {name: get_strategy(name).name for name in STRATEGIES} == {
        "otsu": "otsu",
        "quantile": "quantile(share=0.1)",
        "fixed": "fixed(level=0.2)",
        "best_f": "best_f",
    }
    assert get_strategy("otsu") == OTSU
    assert get_strategy("quantile", {"share": 0.25}) == Strategy("quantile(share=0.25)", Quantile(0.25))
    assert get_strategy("fixed", {"level": 1}).name == get_strategy("fixed", {"level": 1.0}).name == "fixed(level=1)"


# -- levels known by hand --------------------------------------------------------------------------------------


def test_otsu_is_what_it_was() -> None:
    maps = torch.rand(9, 7, 11, generator=torch.Generator().manual_seed(0)) ** 3
    u8 = to_uint8(maps)
    (found,) = OTSU.thresholds([GreyMaps(u8)])
    assert found.dtype == torch.float64
    assert torch.equal(found, otsu_thresholds(u8))
    assert levels(OTSU, [0, 10, 255, 255], [0, 0, 0, 0]) == [10, 0]
    for scale in (1.0, 0.3):
        assert torch.equal(binarise(maps, OTSU, scale), otsu(maps, scale))
        assert torch.equal(otsu(maps, scale), u8 > scale * otsu_thresholds(u8)[:, None, None])


@pytest.mark.parametrize(
    ("share", "values", "level"),
    [
        (0.3, [0, 30, 60, 90, 120, 150, 180, 210, 230, 255], 180),  # three of ten
        (0.5, [255, 0, 100, 100, 0, 100], 100),  # three of six would cut through those at 100
        (0.67, [255, 0, 100, 100, 0, 100], 0),  # four of six
        (0.29, [*range(100)], 70),  # 0.29 x 100 is 28.999999999999996
        (0.1, [0, 1, 255], 255),  # no whole token
        (0.5, [0, 0, 0, 0], 0),  # a constant map
    ],
)
def test_quantile(share: float, values: list[int], level: int) -> None:
    strategy = get_strategy("quantile", {"share": share})
    found, again = levels(strategy, values, values[::-1])
    assert found == again == level
    assert sum(v > level for v in values) <= share * len(values) + 1e-9
    assert level == 0 or sum(v > level - 1 for v in values) > share * len(values), "the least such level"


def test_fixed_is_a_share_of_the_range_times_the_scale() -> None:
    maps = torch.tensor([[[-1.0, 0.0, 1.0, 3.0]], [[5.0, 5.0, 5.0, 5.0]]])  # at 8 bits 0, 63, 127, 255; a constant map
    assert levels(get_strategy("fixed", {"level": 0.2}), [0, 255, 7, 9]) == [51]
    half = get_strategy("fixed", {"level": 0.5})
    assert binarise(maps, half).tolist() == [[[False, False, False, True]], [[False] * 4]]
    assert binarise(maps, half, 0.5).tolist() == [[[False, False, True, True]], [[False] * 4]]
    assert binarise(maps, half, 0.4).tolist() == [[[False, True, True, True]], [[False] * 4]]
    assert not binarise(maps, get_strategy("fixed", {"level": 1})).any()
    assert binarise(maps, get_strategy("fixed", {"level": 1}), tie="foreground").tolist()[0] == [[False] * 3 + [True]]


@pytest.mark.parametrize("upsample", Upsampling)
def test_masks_on_the_image_are_those_of_the_strategy(upsample: Upsampling) -> None:
    maps = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(1))
    tenth, half = (
        segment(maps, 1.0, *SIZES, upsample, strategy=get_strategy("quantile", {"share": share})).double().mean((1, 2))
        for share in (0.1, 0.5)
    )
    assert (half > tenth).all()
    if upsample == Upsampling.nearest:
        assert tenth.tolist() == pytest.approx([4 / 48] * 3, abs=0.01)
    if upsample == Upsampling.bilinear_relevance:  # the share of the pixels, which were thresholded
        assert tenth.tolist() == pytest.approx([0.1] * 3, abs=0.015)


# -- the best level --------------------------------------------------------------------------------------------


def objects(masks: np.ndarray, grid: tuple[int, int], upsample: Upsampling, tie: Tie) -> Objects:
    """Objects by their masks [k, H, W]."""
    cells = Cells.of(grid, *SIZES, upsample)
    codes = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    pixels = cells.count(codes)
    return Objects(cells, pixels, pixels.sum(axis=1) > 0, tie)


def f_measure(mask: np.ndarray, thing: np.ndarray) -> float:
    return 2 * float((mask & thing).sum()) / float(mask.sum() + thing.sum())


@pytest.mark.parametrize("upsample", OF_TOKENS)
@pytest.mark.parametrize("tie", Tie)
def test_best_f_has_the_best_of_all_256_masks_of_pixels(upsample: Upsampling, tie: Tie) -> None:
    rng = np.random.default_rng(len(upsample) + len(tie))
    k, grid = 5, (6, 8)
    relevance = torch.from_numpy(rng.random((k, *grid)) ** 3).float()
    things = np.zeros((k, *SIZES[1]), bool)
    for thing in things:
        y, x = rng.integers(0, 40), rng.integers(0, 60)
        thing[y : y + rng.integers(5, 40), x : x + rng.integers(5, 40)] = True
    things[3] = False  # a detection of nothing
    u8 = to_uint8(relevance)
    best_f = get_strategy("best_f")
    (found,) = best_f.thresholds([GreyMaps(u8, objects(things, grid, upsample, tie))])
    assert found[3] == otsu_thresholds(u8)[3]
    tried = []
    for level in range(256):
        each = torch.full((k,), float(level), dtype=torch.float64)
        tried.append(segment(relevance, 1.0, *SIZES, upsample, each, tie).numpy())
    chosen = segment(relevance, 1.0, *SIZES, upsample, found, tie).numpy()
    for row in (0, 1, 2, 4):
        best = max(f_measure(masks[row], things[row]) for masks in tried)
        assert f_measure(chosen[row], things[row]) == best > 0
    by_otsu = segment(relevance, 1.0, *SIZES, upsample, tie=tie).numpy()
    gained = [f_measure(chosen[row], things[row]) - f_measure(by_otsu[row], things[row]) for row in (0, 1, 2, 4)]
    assert min(gained) >= 0
    assert max(gained) > 0


def test_best_f_by_hand() -> None:
    u8 = torch.tensor([[[0, 100, 200, 255]], [[255, 200, 100, 0]], [[0, 10, 255, 255]]], dtype=torch.uint8)
    sizes = (4, 16), (4, 16)  # four pixels a token
    cells = Cells.of((1, 4), *sizes, Upsampling.nearest)
    things = np.zeros((3, 4, 16), np.uint8)
    things[:2, :, 8:] = 1  # the last two tokens
    things[2, :, :4] = 1  # the first token, which no mask of the third map touches
    pixels = cells.count(rle.encode(np.asfortranarray(things.transpose(1, 2, 0))))
    given = GreyMaps(u8, Objects(cells, pixels, np.array([True, True, True]), Tie.background))
    (found,) = get_strategy("best_f").thresholds([given])
    # 1: above 100 lies just the object. 2: above 0 lies half of it, F = 2 * 16 / (48 + 32), above 100 nothing of it.
    assert found.tolist() == [100, 0, 10] == [100, 0, float(otsu_thresholds(u8)[2])]


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ots", {}, "unknown threshold strategy 'ots'. Available: otsu, quantile, fixed, best_f"),
        ("otsu", {"share": 0.1}, "threshold strategy 'otsu' has no parameter 'share': it has none"),
        ("quantile", {"level": 0.1}, "threshold strategy 'quantile' has no parameter 'level': it has share"),
        *(("quantile", {"share": s}, "share=.* must be a number above 0") for s in (0, 1, -1, "x", True, float("nan"))),
        *(("fixed", {"level": v}, "level=.* must be a number from 0 to 1") for v in (-0.1, 1.1, None, float("nan"))),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_strategy(name, parameters)


@pytest.mark.parametrize("name", ["quantile", "best_f"])
def test_a_scale_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"scale 0\.3 has no meaning for the strategy {name}"):
        segment(torch.rand(1, 3, 3), 0.3, (9, 9), (9, 9), strategy=get_strategy(name))


def test_without_the_objects_there_is_no_best_level() -> None:
    with pytest.raises(InputError, match="best_f reads the masks of the objects"):
        binarise(torch.rand(1, 3, 3), get_strategy("best_f"))
    with pytest.raises(InputError, match="best_f needs the objects"):
        BestF()([GreyMaps(torch.zeros(1, 3, 3, dtype=torch.uint8))])


class Own:
    """A rule that gives whatever it is told to."""

    scalable: ClassVar[bool] = True
    needs_objects: ClassVar[bool] = False

    def __init__(self, given: Tensor) -> None:
        self.given = given

    def __call__(self, images: Sequence[GreyMaps]) -> list[Tensor]:
        return [self.given for _ in images]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3), r"strategy own must give a number for each map, shapes \[\[2\]\], got \[\[3\]\]"),
        (torch.zeros(2, 4, 5), r"got \[\[2, 4, 5\]\]"),
        (torch.tensor([1.0, float("nan")]), "strategy own gave a threshold that is not finite"),
    ],
)
def test_a_rule_that_gives_something_else_is_refused(given: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Strategy("own", Own(given)).thresholds([GreyMaps(torch.zeros(2, 4, 5, dtype=torch.uint8))])


def test_whatever_the_rule_a_constant_map_has_an_empty_mask() -> None:
    maps = torch.tensor([[[2.0, 2.0, 2.0]], [[0.0, 1.0, 2.0]]])
    below = Strategy("own", Own(torch.tensor([-5.0, -5.0])))
    assert binarise(maps, below).tolist() == [[[False] * 3], [[False, True, True]]]


@pytest.mark.parametrize("maps", [torch.rand(2, 4, 5), torch.zeros(4, 5, dtype=torch.uint8)])
def test_maps_must_be_at_8_bits(maps: Tensor) -> None:
    with pytest.raises(InputError, match=r"maps must be uint8 \[k, h, w\]"):
        Strategy("fixed", Fixed()).thresholds([GreyMaps(maps)])
