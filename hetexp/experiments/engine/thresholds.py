"""How a run binarises maps: the strategy from the configuration, refused where it cannot be applied."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from hetexp import config
from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.registry import get_strategy
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.evaluation.upsampling import Upsampling

ANNOTATED = "evaluate"  # the task that has the objects' masks at hand


def resolve_strategy(cfg: DictConfig) -> Strategy:
    """The strategy of a run.

    Raises:
        ConfigError: for an unknown strategy or parameter, a value that it refuses, a scale that it has no use for, and
            a strategy that reads the ground truth where there is none, or where pixels are thresholded.
    """
    given = cfg.threshold
    parameters = OmegaConf.to_container(given.parameters, resolve=True)
    assert isinstance(parameters, dict)
    named = {str(key): value for key, value in parameters.items()}
    strategy = get_strategy(given.strategy, named)
    scales = config.scales(cfg)
    if not strategy.rule.scalable and scales != [1.0]:
        hint = f", and change {', '.join(f'threshold.parameters.{key}' for key in named)}" if named else ""
        raise ConfigError(
            f"threshold.scale={given.scale} has no meaning for threshold.strategy={strategy.name}, whose level is "
            f"chosen as it is: leave it at 1.0{hint}"
        )
    if strategy.rule.needs_objects:
        _check_objects(cfg, strategy.name)
    return strategy


def _check_objects(cfg: DictConfig, name: str) -> None:
    """Refuse a strategy that reads the ground truth where it is not at hand."""
    if cfg.task.name != ANNOTATED:
        raise ConfigError(
            f"threshold.strategy={name} reads the masks of the objects, which task={cfg.task.name} does not have: it "
            f"is for task={ANNOTATED}"
        )
    if cfg.threshold.upsample == Upsampling.bilinear_relevance:
        raise ConfigError(
            f"threshold.strategy={name} tries masks of tokens, and threshold.upsample=bilinear_relevance thresholds "
            "pixels: choose reference, bilinear or nearest"
        )
    if cfg.logger.name != "none" and cfg.logger.overlays > 0:
        raise ConfigError(
            f"threshold.strategy={name} reads the masks of the objects, which sample pictures are made without: set "
            "logger.overlays=0"
        )
