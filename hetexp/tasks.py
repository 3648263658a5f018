"""The tasks of the command line by name; each is imported when it runs, so that drawing a figure loads no torch."""

from __future__ import annotations

from omegaconf import DictConfig

from hetexp.errors import ConfigError
from hetexp.paths import import_from

TASKS = {
    "evaluate": "hetexp.experiments.tasks:run_evaluate",
    "explain": "hetexp.experiments.tasks:run_explain",
    "samples": "hetexp.experiments.tasks:run_samples",
    "structure": "hetexp.experiments.structure:run_structure",
    "serve": "hetexp.serve.task:run_serve",
    "table": "hetexp.reporting.tasks:tables",
    "figure": "hetexp.reporting.tasks:figures",
    "evidence": "hetexp.reporting.tasks:evidence",
    "report": "hetexp.reporting.tasks:report",
    "download": "hetexp.experiments.tasks:download",
    "check": "hetexp.experiments.tasks:check_data",
    "merge": "hetexp.experiments.tasks:run_merge",
}


def run(cfg: DictConfig) -> None:
    """Run the configured task.

    Raises:
        ConfigError: for an unknown task; the message lists the known ones.
    """
    if cfg.task.name not in TASKS:
        raise ConfigError(f"unknown task {cfg.task.name!r}. Available tasks: {', '.join(TASKS)}")
    import_from(TASKS[cfg.task.name])(cfg)
