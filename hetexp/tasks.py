"""The tasks of the command line by name; each is imported when it runs, so that drawing a figure loads no torch."""

from __future__ import annotations

from omegaconf import DictConfig

from hetexp.config import ThresholdConfig
from hetexp.errors import ConfigError
from hetexp.garbage import import_for_good

TASKS = {
    "evaluate": "hetexp.experiments.tasks:run_evaluate",
    "explain": "hetexp.experiments.asked:run_explain",
    "samples": "hetexp.experiments.tasks:run_samples",
    "structure": "hetexp.experiments.structure:run_structure",
    "serve": "hetexp.serve.task:run_serve",
    "table": "hetexp.reporting.tasks:tables",
    "figure": "hetexp.reporting.tasks:figures",
    "evidence": "hetexp.reporting.tasks:evidence",
    "report": "hetexp.reporting.tasks:report",
    "download": "hetexp.experiments.data_tasks:download",
    "check": "hetexp.experiments.data_tasks:check_data",
    "merge": "hetexp.experiments.tasks:run_merge",
}

# Those that make masks, or say themselves why not; the others show what runs have written, or need none.
_MAKE_MASKS = ("evaluate", "explain", "samples", "serve")


def run(cfg: DictConfig) -> None:
    """Run the configured task.

    Raises:
        ConfigError: for an unknown task, the message lists the known ones; and for a threshold strategy where the task
            makes no masks.
    """
    if cfg.task.name not in TASKS:
        raise ConfigError(f"unknown task {cfg.task.name!r}. Available tasks: {', '.join(TASKS)}")
    if cfg.threshold.strategy != ThresholdConfig.strategy and cfg.task.name not in _MAKE_MASKS:
        raise ConfigError(
            f"threshold.strategy={cfg.threshold.strategy}: task={cfg.task.name} makes no masks. Give it to the run "
            "that makes them, task=evaluate, explain or samples"
        )
    import_for_good(TASKS[cfg.task.name])(cfg)
