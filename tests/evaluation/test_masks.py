"""Otsu, the upsampling variants and run lengths, against OpenCV's stored values, scikit-image and plain formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from skimage.filters import threshold_otsu

from hetexp.errors import InputError
from hetexp.evaluation.masks import (
    encode,
    otsu,
    segment,
    to_image,
    to_uint8,
)
from hetexp.evaluation.thresholds.otsu import otsu_thresholds, otsu_thresholds_of
from hetexp.evaluation.upsampling import Upsampling

# pycocotools' decoder predates numpy 2's copy keyword
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detr/A_12x10.npz", allow_pickle=False)
METHODS = [key[3:] for key in GOLDEN.files if key.startswith("u8_")]
GRID, INPUT, IMAGE = (tuple(int(n) for n in GOLDEN[key]) for key in ("grid", "input_size", "orig_size"))


def random_maps(seed: int, k: int = 40) -> torch.Tensor:
    """Maps of several kinds: smooth, heavy-tailed, sparse (whose histograms have long empty stretches)."""
    rng = np.random.default_rng(seed)
    h, w = rng.integers(3, 30, 2)
    maps = rng.standard_normal((k, h, w))
    kind = seed % 4
    if kind == 1:
        maps = np.exp(3 * maps)
    elif kind == 2:
        maps = maps**2 * (rng.random((k, h, w)) < 0.1)
        maps[:, 0, 0] = 1
    elif kind == 3:
        maps = np.sign(maps) * 3 + maps
    return torch.from_numpy(maps).float()


def test_golden_has_all_ten_methods() -> None:
    assert len(METHODS) == 10


@pytest.mark.parametrize("method", METHODS)
def test_masks_from_stored_relevance_are_bit_equal_to_the_reference(method: str) -> None:
    relevance = torch.from_numpy(GOLDEN[method]).float().reshape(-1, *GRID)
    u8 = to_uint8(relevance)
    assert np.array_equal(u8.numpy(), GOLDEN[f"u8_{method}"].reshape(u8.shape))
    assert np.array_equal(otsu_thresholds(u8).numpy(), GOLDEN[f"otsu_{method}"])
    for scale, name in ((1.0, "100"), (0.3, "030")):
        tokens = otsu(relevance, scale)
        assert np.array_equal(tokens.numpy(), GOLDEN[f"tokmask{name}_{method}"].reshape(tokens.shape))
        final = to_image(tokens, INPUT, IMAGE)
        packed = np.packbits(final.numpy().reshape(len(final), -1), axis=1)
        assert np.array_equal(packed, GOLDEN[f"finmask{name}_{method}"])
        assert torch.equal(final, segment(relevance, scale, INPUT, IMAGE))


@pytest.mark.parametrize("seed", range(40))
def test_otsu_agrees_with_scikit_image(seed: int) -> None:
    u8 = to_uint8(random_maps(seed))
    ours = otsu_thresholds(u8).numpy()
    theirs = np.array([threshold_otsu(m) for m in u8.numpy()])
    assert (ours != theirs).mean() <= 0.05  # only ties on empty histogram bins may fall differently
    for m, one, other in zip(u8.numpy(), ours, theirs, strict=True):
        assert np.array_equal(m > one, m > other)


def test_uint8_truncates_and_spans_the_range() -> None:
    u8 = to_uint8(torch.tensor([[[0.0, 0.999, 1.0]], [[-2.0, -1.0, 0.0]]]))
    assert u8.tolist() == [[[0, 254, 255]], [[0, 127, 255]]]


def test_each_map_is_treated_on_its_own() -> None:
    maps = random_maps(3)
    together = otsu(maps, 0.7)
    alone = torch.cat([otsu(m[None] * 1000 - 7, 0.7) for m in maps.double()])
    assert (together != alone).float().mean() < 1e-3  # rounding of the shift only
    assert torch.equal(together, torch.cat([otsu(m[None], 0.7) for m in maps]))


def test_thresholds_of_groups_of_different_grids_are_those_of_each() -> None:
    groups = [to_uint8(torch.rand(n, h, w) ** 3) for n, h, w in ((3, 12, 16), (1, 25, 34), (0, 4, 4), (2, 7, 5))]
    found = otsu_thresholds_of(groups)
    assert [len(t) for t in found] == [3, 1, 0, 2]
    for u8, thresholds in zip(groups, found, strict=True):
        assert torch.equal(thresholds, otsu_thresholds(u8))
    assert otsu_thresholds_of([]) == []


@pytest.mark.parametrize("upsample", Upsampling)
def test_known_thresholds_give_the_same_masks(upsample: Upsampling) -> None:
    maps = random_maps(5)
    known = otsu_thresholds(to_uint8(maps))
    sizes = ((96, 128), (60, 80))
    masks = segment(maps, 0.5, *sizes, upsample)
    assert torch.equal(segment(maps, 0.5, *sizes, upsample, known), masks)
    assert torch.equal(segment(maps, 0.5, *sizes, str(upsample)), masks), "by its name"


def test_threshold_is_strict() -> None:
    relevance = torch.tensor([[[0.0, 10.0, 255.0, 255.0]]])
    threshold = float(otsu_thresholds(to_uint8(relevance))[0])
    assert threshold == 10.0
    assert otsu(relevance).tolist() == [[[False, False, True, True]]]
    assert otsu(relevance, 0.99).tolist() == [[[False, True, True, True]]]


def test_constant_map_and_no_map_give_empty_masks() -> None:
    assert not otsu(torch.full((2, 4, 5), 3.25)).any()
    assert not otsu(torch.zeros(1, 1, 1), 0.3).any()
    for upsample in Upsampling:
        assert segment(torch.zeros(0, 4, 5), 1.0, (32, 40), (30, 50), upsample).shape == (0, 30, 50)
        assert not segment(torch.ones(2, 4, 5), 1.0, (32, 40), (30, 50), upsample).any()


def test_huge_and_double_values_survive() -> None:
    relevance = torch.tensor([[[-3e38, 0.0, 3e38]]], dtype=torch.float64)
    assert to_uint8(relevance).tolist() == [[[0, 127, 255]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_are_refused_with_the_number_of_the_map(value: float) -> None:
    relevance = torch.rand(20, 3, 3)
    relevance[17, 1, 1] = value
    for call in (to_uint8, otsu, lambda r: segment(r, 1.0, (9, 9), (9, 9), "bilinear_relevance")):
        with pytest.raises(InputError, match="map 17 of 20"):
            call(relevance)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="scale must be"):
        otsu(torch.rand(1, 3, 3), scale)
    with pytest.raises(InputError, match="scale must be"):
        segment(torch.rand(1, 3, 3), scale, (9, 9), (9, 9), "bilinear_relevance")


def test_wrong_shapes_sizes_and_names_are_refused() -> None:
    with pytest.raises(InputError, match="leading axis"):
        to_uint8(torch.rand(3, 3))
    with pytest.raises(InputError, match="to_uint8"):
        otsu_thresholds(torch.rand(1, 3, 3))
    with pytest.raises(InputError, match="height, width"):
        to_image(torch.ones(1, 3, 3), (0, 9), (9, 9))
    with pytest.raises(InputError, match="Available: reference, bilinear, nearest, bilinear_relevance"):
        segment(torch.rand(1, 3, 3), 1.0, (9, 9), (9, 9), "cubic")


def test_one_token_grows_by_up_to_a_token_only_in_the_reference_variant() -> None:
    relevance = torch.zeros(1, 6, 6)
    relevance[0, 2, 3] = 1.0
    token = otsu(relevance)
    assert token.sum() == 1
    area = {up.value: int(segment(relevance, 1.0, (96, 96), (96, 96), up).sum()) for up in Upsampling}
    assert area["nearest"] == 16 * 16
    assert area["reference"] == 32 * 32  # half a token on each side
    assert 0 < area["bilinear"] < area["nearest"]
    assert 0 < area["bilinear_relevance"] < area["reference"]


@pytest.mark.parametrize("seed", range(6))
def test_upsampling_equals_the_full_size_interpolation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w = (int(n) for n in rng.integers(2, 40, 2))
    size = (32 * h - int(rng.integers(0, 32)), 32 * w - int(rng.integers(0, 32)))
    image = (int(rng.integers(40, 500)), int(rng.integers(40, 500)))
    masks = torch.from_numpy(rng.random((6, h, w)) < 0.2)
    values = F.interpolate(masks[:, None].float(), size=size, mode="bilinear", align_corners=False)
    expected = {
        "reference": (255 * values).sigmoid() > 0.5,  # as GAE's code writes it
        "bilinear": values > 0.5,
        "nearest": F.interpolate(masks[:, None].float(), size=size, mode="nearest") > 0.5,
    }
    for upsample, mask in expected.items():
        result = segment(masks.float(), 1.0, size, image, upsample)
        differing = result != (F.interpolate(mask.float(), size=image, mode="nearest")[:, 0] > 0)
        assert differing.float().mean() <= (1e-5 if upsample == "bilinear" else 0), upsample  # rounding at one half
    assert torch.equal(segment(masks.float(), 1.0, size, image), to_image(masks, size, image))


def test_encode_decodes_to_the_same_masks() -> None:
    masks = torch.rand(5, 13, 17) > 0.5
    masks[2] = False
    codes = encode(masks)
    assert all(isinstance(code["counts"], str) and code["size"] == [13, 17] for code in codes)
    assert np.array_equal(rle.decode(codes).transpose(2, 0, 1).astype(bool), masks.numpy())
    assert rle.area(codes)[2] == 0
    assert encode(masks[:0]) == []
    with pytest.raises(InputError, match="k, H, W"):
        encode(masks[0])
