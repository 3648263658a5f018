"""The commands that make what tables and figures are drawn from: one place for messages and the report."""

from __future__ import annotations

from hetexp.errors import DataError

# By the kind of what is explained; any model of that kind will do in place of the embedded one.
SAMPLES = {
    "detection": "python run.py task=samples model=detr",
    "vqa": "python run.py task=samples model=lxmert",
    "text": "python run.py task=samples model=bart",
}


class MissingInput(DataError):
    """What a table or figure is made of does not exist yet; the message names the command that makes it."""


def experiment_command(experiment: str) -> str:
    """The command that runs an experiment; "a/b" is choice b of experiment a."""
    return f"python run.py +experiment={experiment.partition('/')[0]}"
