"""The experiments by what a model does; each is imported when it is needed, so that one loads nothing of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetexp.errors import ConfigError

if TYPE_CHECKING:
    from hetexp.experiments.engine.session import Session


@dataclass(frozen=True)
class Experiment:
    """What is done with models of one kind, functions of a session as "module:name".

    Attributes:
        run: measures, and returns results.
        samples: explains the chosen items of the data, by name.
        explain_input: explains a picture of one's own, the second argument; None where models read other things.
    """

    run: str
    samples: str
    explain_input: str | None = None


EXPERIMENTS = {
    "detection": Experiment(
        "hetexp.experiments.detection.run:run",
        "hetexp.experiments.detection.explain:samples",
        "hetexp.experiments.detection.explain:explain_image",
    ),
    "vqa": Experiment(
        "hetexp.experiments.vqa.run:run",
        "hetexp.experiments.vqa.explain:samples",
        "hetexp.experiments.vqa.explain:explain_question",
    ),
    "text": Experiment("hetexp.experiments.text.run:run", "hetexp.experiments.text.samples:samples"),
}


def experiment_of(session: Session) -> Experiment:
    """The experiment for what the session's model does.

    Raises:
        ConfigError: if there is none.
    """
    if session.kind not in EXPERIMENTS:
        raise ConfigError(
            f"model {session.adapter.name!r} is of the kind {session.kind!r}, and experiments are for "
            f"{' and '.join(EXPERIMENTS)}: explain its inputs in Python with hetexp.explain"
        )
    return EXPERIMENTS[session.kind]
