"""How often do the intervals cover what they are to cover? Data with a known truth, simulated again and again.

    python scripts/check_coverage.py                       # 1,000 repetitions, a few minutes on one core

Three quantities: the mean of items that share images, the difference of AP between two paired detectors, and the AP of
one detector, on data as the embedded scenes and on harder ones of few images and rare categories. The truth of AP is
that of 20,000 images. For each the percentile interval that tables print, and the bias-corrected one (Efron 1981,
doi:10.2307/3314608).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from hetexp.evaluation.bootstrap import Estimate, mean_estimate, resample_counts
from hetexp.evaluation.matches import Matches
from hetexp.files import atomic_write

Simulate = Callable[[np.random.Generator], Estimate]


@dataclass(frozen=True)
class Shape:
    """Of a data set: its images, objects per image, and how often each category occurs."""

    images: int
    objects: float
    shares: tuple[float, ...]


SHAPES = {
    "as the embedded scenes": Shape(400, 3.2, (1 / 24,) * 24),
    "few images, rare categories": Shape(200, 2.5, (0.35, 0.25, 0.18, 0.12, 0.06, 0.04)),
}


def clustered_means(rng: np.random.Generator, resamples: int, images: int) -> Estimate:
    """Mean difference of items, 1 to 6 of an image, that share the image's own part; the truth is 0.1."""
    sizes = rng.integers(1, 7, images)
    unit = np.repeat(np.arange(images), sizes)
    values = 0.1 + 0.5 * rng.standard_normal(images)[unit] + rng.exponential(1.0, len(unit)) - 1
    return mean_estimate(values, unit, resample_counts(images, resamples, int(rng.integers(2**31))))


def detections(rng: np.random.Generator, shape: Shape, images: int, edge: float) -> tuple[Matches, Matches]:
    """Matches of two detectors on the same objects: they find an object alike often, the second one more often."""
    counts = rng.poisson(shape.objects, images)
    of_object = np.repeat(np.arange(images), counts)
    category = rng.choice(len(shape.shares), len(of_object), p=np.array(shape.shares))
    hard = 0.5 * rng.standard_normal(images)[of_object] + rng.standard_normal(len(of_object))
    strays = rng.poisson(1.2, images)
    of_stray = np.repeat(np.arange(images), strays)
    stray_category = rng.integers(0, len(shape.shares), len(of_stray))
    found = []
    for shift in (0.0, edge):
        ease = shift - hard + 0.7 * rng.standard_normal(len(hard))
        hit = ease > -0.3
        image = np.concatenate([of_object, of_stray])
        score = np.concatenate([norm.cdf(ease), norm.cdf(rng.standard_normal(len(of_stray)) - 0.7)])
        kind, matched = np.concatenate([category, stray_category]), np.concatenate([hit, np.zeros(len(of_stray), bool)])
        order = np.lexsort((image, kind))
        size = (4, 1, len(image))
        found.append(
            Matches(
                images=np.arange(images),
                thresholds=np.array([0.5]),
                image=image[order],
                category=kind[order],
                score=score[order],
                matched=np.broadcast_to(matched[order], size).copy(),
                ignored=np.zeros(size, bool),
                object_image=of_object,
                object_category=category,
                object_ignored=np.zeros((4, len(of_object)), bool),
            )
        )
    return found[0], found[1]


def ap(matches: Matches, resamples: int, seed: int) -> Estimate:
    """AP in percent with its resamples."""
    counts = resample_counts(len(matches.images), resamples, seed)
    return matches.estimates(counts, ["AP"])["AP"]


def bias_corrected(estimate: Estimate) -> tuple[float, float]:
    """Ends of the 95 % interval corrected for the median's bias."""
    known = np.sort(estimate.resampled[~np.isnan(estimate.resampled)])
    below = np.clip(((known < estimate.value).sum() + (known == estimate.value).sum() / 2) / len(known), 1e-4, 1 - 1e-4)
    z = norm.ppf(below)
    low, high = np.quantile(known, norm.cdf(2 * z + norm.ppf([0.025, 0.975])))
    return float(low), float(high)


def coverage(simulate: Simulate, truth: float, repetitions: int, seed: int) -> dict[str, float]:
    """Share of repetitions whose interval holds the truth, and misses on either side, in percent."""
    rng = np.random.default_rng(seed)
    ends = np.array(
        [(*e.interval(), *bias_corrected(e), float(np.nanmean(e.resampled)) - e.value) for e in
         (simulate(rng) for _ in range(repetitions))]
    )  # fmt: skip
    out: dict[str, float] = {}
    for name, (low, high) in (("percentile", ends[:, :2].T), ("bias-corrected", ends[:, 2:4].T)):
        out |= {
            f"{name}: covers, %": 100 * float(np.mean((low <= truth) & (truth <= high))),
            f"{name}: too high, %": 100 * float(np.mean(truth < low)),
            f"{name}: too low, %": 100 * float(np.mean(truth > high)),
        }
    return out | {"resamples' mean − estimate": float(ends[:, 4].mean())}


def check(shape: Shape, repetitions: int, resamples: int, edge: float = 0.25) -> dict[str, dict[str, float]]:
    """Coverage of the three quantities on data of one shape."""
    everything = np.ones((1, 20_000), dtype=np.int32)
    large = [100 * float(m.metrics(everything, ["AP"])["AP"][0])
             for m in detections(np.random.default_rng(1), shape, 20_000, edge)]  # fmt: skip

    def both(rng: np.random.Generator) -> tuple[Estimate, Estimate]:
        one, other = detections(rng, shape, shape.images, edge)
        seed = int(rng.integers(2**31))
        return ap(one, resamples, seed), ap(other, resamples, seed)

    def gap(rng: np.random.Generator) -> Estimate:
        one, other = both(rng)
        return other - one

    means = coverage(lambda rng: clustered_means(rng, resamples, shape.images), 0.1, repetitions, 2)
    return {
        "mean of clustered items": means,
        "difference of two APs": coverage(gap, large[1] - large[0], repetitions, 3),
        "one AP": coverage(lambda rng: both(rng)[0], large[0], repetitions, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("outputs/coverage.md"))
    args = parser.parse_args()
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, shape in SHAPES.items():
        rows |= {
            (name, quantity): values for quantity, values in check(shape, args.repetitions, args.resamples).items()
        }
    text = f"Coverage of 95 % intervals: {args.repetitions} repetitions, {args.resamples} resamples each.\n\n"
    table = pd.DataFrame(rows).T.rename_axis(["data", "quantity"]).reset_index()
    text += table.to_markdown(floatfmt=".2f", index=False) + "\n"
    atomic_write(args.out, text)
    print(text)


if __name__ == "__main__":
    main()
