"""The commands that make what tables and figures are drawn from: one place for messages and the report."""

from __future__ import annotations

from hetexp.errors import DataError

EXPERIMENTS = {
    "table1": "python run.py +experiment=table1",
    "table2": "python run.py +experiment=table2",
    "table3": "python run.py +experiment=table3",
    "table4": "python run.py +experiment=table4",
    "figure6": "python run.py +experiment=figure6",
    "figure6_models": "python run.py +experiment=figure6_models",
    "deciding_tokens": "python run.py +experiment=deciding_tokens",
    "text_perturbation": "python run.py +experiment=text_perturbation",
    "detectors": "python run.py +experiment=detectors",
    "leaderboard": "python run.py +experiment=leaderboard",
    "leaderboard_passes": "python run.py +experiment=leaderboard_passes",
    "threshold_sweep": "python run.py +experiment=threshold_sweep",
}
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
    name = experiment.partition("/")[0]
    return EXPERIMENTS.get(name, f"python run.py +experiment={name}")
