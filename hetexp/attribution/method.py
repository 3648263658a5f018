"""What an attribution method is: an interpreter of attention traces."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.passes import Pass
from hetexp.models.trace import AttentionTrace


class Method(Protocol):
    """An interpreter of attention traces; its constructor arguments are its parameters."""

    @property
    def corrections(self) -> tuple[str, ...]:
        """Corrections whose maps it asks for ("pos", "full", "abs")."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Intermediate features that it reads, which cost a longer backward pass; "default" is the model's choice."""
        ...

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, Tensor]:
        """Relevance of every source's tokens for each target, per source [k, N]."""
        ...


@runtime_checkable
class NeedsPasses(Protocol):
    """A method that further passes through the model are made for; their traces are in `trace.passes`."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes, each made once for all methods that ask for it."""
        ...
