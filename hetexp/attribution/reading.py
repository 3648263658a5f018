"""How a method reads corrected maps: choices that the paper leaves open or makes silently; its own are defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.maps import Map
from hetexp.attribution.propagation import MapOf
from hetexp.errors import ConfigError
from hetexp.models.trace import AttentionStep, AttentionTrace, Group

HEADS = ("all", "first_half", "second_half")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Parameters of every method that propagates corrected maps (Eq. 1-5).

    Args:
        y_unit: the target is y times this. Every map is linear in the gradient, and the identity that is added to it is
            not, so the unit in which y is measured decides how much an attention weighs against what it is added to.
        row_sum: rows of every map are divided by the sum of their absolute values and multiplied by this; rows of 0
            stay. Then y has no unit any more. None leaves maps as they are, as the paper does.
        heads: heads that maps are averaged over: "all", "first_half" or "second_half".
        encoder_weight: factor of the maps of the homologous part.
        encoder_layers: how many of the last layers of each stream's homologous part take part; None stands for all.
    """

    y_unit: float = 1.0
    row_sum: float | None = None
    heads: str = "all"
    encoder_weight: float = 1.0
    encoder_layers: int | None = None

    def __post_init__(self) -> None:
        if self.heads not in HEADS:
            raise ConfigError(f"unknown heads {self.heads!r}: choose one of {', '.join(HEADS)}")
        for name, least in (("y_unit", None), ("row_sum", None), ("encoder_weight", 0), ("encoder_layers", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                wanted = "positive" if least is None else "0 or more"
                raise ConfigError(f"{name}={value} must be a number that is {wanted}")

    def cut(self, trace: AttentionTrace) -> AttentionTrace:
        """The trace with the last `encoder_layers` self-attentions of each stream in its homologous part."""
        if self.encoder_layers is None:
            return trace
        left = {step.query: 0 for group in trace.encoder for step in group}
        kept: list[Group] = []
        for group in reversed(trace.encoder):
            here = tuple(step for step in group if left[step.query] < self.encoder_layers)
            for step in here:
                left[step.query] += 1
            kept.append(here)
        return replace(trace, encoder=tuple(group for group in reversed(kept) if group))

    def maps_of(self, trace: AttentionTrace, maps: CorrectedMaps, correction: str) -> MapOf:
        """The corrected map of every step of a trace, as these parameters read it."""
        if self.heads != "all":
            maps = CorrectedMaps((correction,), maps.sizes)
        homologous = {step.name for group in trace.encoder for step in group}
        read: dict[str, Map] = {}

        def of(step: AttentionStep) -> Map:
            if step.name not in read:
                factor = self.y_unit * (self.encoder_weight if step.name in homologous else 1.0)
                read[step.name] = self._read(step, maps, correction, factor)
            return read[step.name]

        return of

    def _read(self, step: AttentionStep, maps: CorrectedMaps, correction: str, factor: float) -> Map:
        found = maps(step if self.heads == "all" else _half(step, self.heads == "first_half"), correction)
        if self.row_sum is not None:
            signed = correction == "full"  # entries of the others are not negative
            sums = (found.change(torch.abs) if signed else found).row_sums()
            found = found.scaled(torch.where(sums > 0, self.row_sum / sums.where(sums > 0, 1), 0))
        return found if factor == 1 else found.scaled(step.values.new_full((1, 1), factor))


def _half(step: AttentionStep, first: bool) -> AttentionStep:
    """The step with half of its heads.

    Raises:
        ConfigError: for a single head.
    """
    heads = len(step.probabilities)
    if heads < 2:
        raise ConfigError(f"{step.name} has one head, which has no halves: use heads=all")
    part = slice(0, heads // 2) if first else slice(heads // 2, heads)
    return replace(
        step,
        probabilities=step.probabilities[part],
        values=step.values[part],
        output_gradient=step.output_gradient[:, part],
        indices=None if step.indices is None else step.indices[part],
        points=None,
    )
