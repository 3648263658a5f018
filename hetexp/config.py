"""Structured configuration: every group is checked against these dataclasses before anything runs."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from hetexp.errors import ConfigError
from hetexp.paths import asset, conf_dir

UPSAMPLINGS = ("reference", "bilinear", "nearest", "bilinear_relevance")


@dataclass
class ProfileConfig:
    name: str = "embedded"
    checkpoints: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelConfig:
    name: str = "detr"
    checkpoint: str = ""
    revision: str | None = None
    keep: float = 0.5
    odam_feature: str = "projection"
    submit_unkept: bool = False
    batch_size: int = 1
    chunk_size: int = 20


@dataclass
class MethodConfig:
    name: str = "ours_abs"
    correction: str | None = None
    noise_link: str | None = None


@dataclass
class NameConfig:
    name: str = ""


@dataclass
class ThresholdConfig:
    scale: Any = 1.0
    upsample: str = "reference"


@dataclass
class DataConfig:
    name: str = ""
    root: str = MISSING
    images: str | None = None
    annotations: str | None = None
    questions: str | None = None
    answers: str | None = None
    regions: str | None = None
    draw: int | None = None
    score: str = "soft"
    mirror: str | None = None


@dataclass
class LoggerConfig:
    name: str = "none"
    project: str = "hetexp"
    mode: str = "offline"
    group: str | None = None
    overlays: int = 8


@dataclass
class PathsConfig:
    outputs: str = "outputs"
    store: str = "outputs/store"


@dataclass
class Config:
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    correction: NameConfig = field(default_factory=NameConfig)
    noise_link: NameConfig = field(default_factory=NameConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    target: NameConfig = field(default_factory=NameConfig)
    task: NameConfig = field(default_factory=NameConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    experiment: str | None = None
    methods: list[str] | None = None
    device: str = "auto"
    dtype: str = "float32"
    autocast: str | None = None
    threads: int | None = None
    batch_size: int = 1
    chunk_size: int = 20
    limit: int | None = None
    seed: int = 1234
    bootstrap: int = 1000
    shard: Any = None
    progress: bool = True
    workers: int = 0
    image: str | None = None
    query: Any = None
    question: str | None = None
    answers: list[Any] | None = None
    merge: dict[str, Any] = field(default_factory=lambda: {"from": None})


def run_dir(outputs: str, now: str, label: str, shard: Any) -> str:
    """Folder of a run; that of a shard has a fixed name, so that a rerun continues there."""
    if shard is None or str(shard) in ("", "null", "None"):
        return f"{outputs}/runs/{now}_{label}"
    return f"{outputs}/shards/{label}/{str(shard).replace('/', '-of-')}"


def run_label(experiment: str | None, model: str, method: str) -> str:
    """Short name of a run for its folder."""
    return experiment or f"{model}_{method}"


def register() -> None:
    """Make schema and resolvers known to Hydra; safe to call twice."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("asset", asset, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("run_label", run_label, replace=True)


def composed(*overrides: str) -> DictConfig:
    """The configuration that these overrides give on the command line, for scripts and tests."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def parse_shard(shard: Any) -> tuple[int, int]:
    """(index, count) of `shard=i/n`; (0, 1) when unset.

    Raises:
        ConfigError: unless 0 <= i < n.
    """
    if shard is None:
        return 0, 1
    try:
        index, count = (int(part) for part in str(shard).split("/"))
    except ValueError:
        raise ConfigError(f"shard={shard!r} must have the form i/n, e.g. shard=0/4") from None
    if not 0 <= index < count:
        raise ConfigError(f"shard={shard} must have 0 <= i < n: shards are counted from 0")
    return index, count


def scales(cfg: DictConfig) -> list[float]:
    """Otsu scales of the run, one or several.

    Raises:
        ConfigError: for a scale that is no positive number.
    """
    given = cfg.threshold.scale
    values = list(given) if isinstance(given, ListConfig | list) else [given]
    out = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ConfigError(f"threshold.scale={value!r} must be a positive number, e.g. 1.0 or 0.3")
        out.append(float(value))
    if not out:
        raise ConfigError("threshold.scale is an empty list: give at least one positive number")
    return out


def _known_keys(cfg: DictConfig, schema: DictConfig, above: str = "") -> None:
    """Refuse keys that nothing reads: Hydra's `+key=value` adds any, mistyped ones too."""
    known = [str(key) for key in schema]  # unlike `in`, with those that have no value yet
    for key in map(str, cfg):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {above}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"unknown key {above}{key}: {hint}")
        inner = None if OmegaConf.is_missing(schema, key) else schema[key]
        if isinstance(inner, DictConfig) and OmegaConf.get_type(inner) is not dict:
            _known_keys(cfg[key], inner, f"{above}{key}.")


def validate(cfg: DictConfig) -> None:
    """Check what the types alone do not.

    Raises:
        ConfigError: naming the key, its value and what is expected.
    """
    _known_keys(cfg, OmegaConf.structured(Config))
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ConfigError(f"data.root is not set: name the folder that holds {cfg.data.name}, e.g. data.root=/data")
    scales(cfg)
    parse_shard(cfg.shard)
    if cfg.threshold.upsample not in UPSAMPLINGS:
        raise ConfigError(f"threshold.upsample={cfg.threshold.upsample!r} must be one of {', '.join(UPSAMPLINGS)}")
    if cfg.dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype={cfg.dtype!r} must be float32 or float64")
    if cfg.autocast is not None:
        if cfg.autocast not in ("bfloat16", "float16"):
            raise ConfigError(f"autocast={cfg.autocast!r} must be bfloat16, float16 or null")
        if cfg.model.name != "detr" or cfg.dtype != "float32":
            raise ConfigError(
                f"autocast={cfg.autocast} is for the backbone of model=detr with dtype=float32, not for "
                f"model={cfg.model.name} with dtype={cfg.dtype}: drop it"
            )
    for key in ("batch_size", "chunk_size"):
        if cfg[key] < 1:
            raise ConfigError(f"{key}={cfg[key]} must be at least 1")
    for key in ("limit", "threads"):
        if cfg[key] is not None and cfg[key] < 1:
            raise ConfigError(f"{key}={cfg[key]} must be at least 1, or null")
    for key in ("bootstrap", "workers"):
        if cfg[key] < 0:
            raise ConfigError(f"{key}={cfg[key]} must be 0 (off) or positive")
    if not 0 <= cfg.model.keep < 1:
        raise ConfigError(f"model.keep={cfg.model.keep} is a probability: it must lie in [0, 1)")
    if cfg.methods is not None and (not cfg.methods or len(set(cfg.methods)) != len(cfg.methods)):
        raise ConfigError(f"methods={list(cfg.methods)} must name one or more methods, each once")
    if cfg.data.score not in ("soft", "official"):
        raise ConfigError(f"data.score={cfg.data.score!r} must be soft or official")
