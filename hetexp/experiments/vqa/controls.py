"""Relevance made without any attribution, measured beside the methods against the ground truth.

Where the perturbation test is asked for, it is made in the order of the control, too. Uniform noise is the method
`random`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.experiments.vqa.localise import oracle
from hetexp.experiments.vqa.metrics import Outcome


@dataclass(frozen=True)
class Control:
    """A control by its name in results.

    Attributes:
        name: as `controls=[...]` lists it.
        relevance: of the words and of the regions of every question.
    """

    name: str
    relevance: Callable[[Outcome], tuple[list[Tensor], list[Tensor]]]

    def parameter(self, name: str) -> str:
        """Controls have no parameters."""
        return ""


# Name, as `controls=[...]` lists it and results.csv shows it -> control.
CONTROLS = {"oracle": Control("oracle", oracle)}


def get_control(name: str) -> Control:
    """The control of that name.

    Raises:
        ConfigError: for an unknown name; the message lists the known ones.
    """
    if name not in CONTROLS:
        raise ConfigError(
            f"unknown control {name!r}. Available for question answering: {', '.join(CONTROLS)}; noise is "
            "methods=[...,random]"
        )
    return CONTROLS[name]
