"""Structured configuration: every group is checked against these dataclasses before anything runs."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from hetexp.errors import ConfigError
from hetexp.evaluation.upsampling import Tie, Upsampling
from hetexp.models.registry import ARCHITECTURES, AUTO
from hetexp.paths import asset, conf_dir
from hetexp.reporting.contrast import Contrast

log = logging.getLogger("hetexp")


class Precision(Enum):
    """Floating type of weights and attribution."""

    float32 = "float32"
    float64 = "float64"


class HalfPrecision(Enum):
    """Floating type of a frozen backbone's convolutions."""

    bfloat16 = "bfloat16"
    float16 = "float16"


class AnswerScore(Enum):
    """How an answer is scored: LXMERT's soft score, or VQA v2's official accuracy."""

    soft = "soft"
    official = "official"


@dataclass
class ProfileConfig:
    name: str = "embedded"


@dataclass
class ModelConfig:
    name: str = "detr"
    checkpoint: str | None = None
    checkpoints: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    score_threshold: float | None = None
    texts: Any = None
    wiring: str | None = None
    include_below_threshold: bool = False
    batch_size: int = 1
    chunk_size: int = 20


@dataclass
class NameConfig:
    name: str = ""


@dataclass
class TargetConfig:
    name: str = "logit"
    side: str | None = None


@dataclass
class ThresholdConfig:
    strategy: str = "otsu"
    parameters: dict[str, Any] = field(default_factory=dict)
    scale: Any = 1.0
    upsample: Upsampling = Upsampling.reference
    tie: Tie = Tie.background


@dataclass
class DataConfig:
    name: str = ""
    format: str = "coco"
    root: str = MISSING
    images: str | None = None
    annotations: str | None = None
    categories: Any = None
    questions: str | None = None
    answers: str | None = None
    regions: str | None = None
    sentences: str | None = None
    draw: int | None = None
    score: AnswerScore = AnswerScore.soft
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
class ReportConfig:
    partial: bool = False


@dataclass
class FigureConfig:
    contrast: Contrast = Contrast.own


@dataclass
class Config:
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: dict[str, Any] = field(default_factory=dict)
    correction: NameConfig = field(default_factory=NameConfig)
    noise_link: NameConfig = field(default_factory=NameConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    task: NameConfig = field(default_factory=NameConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    experiment: str | None = None
    methods: list[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: list[str] | None = None
    controls: list[str] | None = None
    perturb: bool = True
    compare: list[Any] | None = None
    choices: dict[str, Any] | None = None
    plugins: list[str] = field(default_factory=list)
    device: str = "auto"
    dtype: Precision = Precision.float32
    autocast: HalfPrecision | None = None
    threads: int | None = None
    batch_size: int = 1
    chunk_size: int = 20
    limit: int | None = None
    seed: int = 1234
    bootstrap: int = 1000
    costs: int = 0
    shard: Any = None
    progress: bool = True
    workers: int = 0
    image: str | None = None
    text: str | None = None
    audio: str | None = None
    written: str | None = None
    query: Any = None
    question: str | None = None
    answers: list[Any] | None = None
    levels: bool = False
    port: int = 8000
    merge: dict[str, Any] = field(default_factory=lambda: {"from": None})
    tables: list[str] | None = None
    figures: list[str] | None = None
    figure: FigureConfig = field(default_factory=FigureConfig)
    results: str | None = None
    claims: str | None = None
    report: ReportConfig = field(default_factory=ReportConfig)


def run_dir(outputs: str, now: str, label: str, shard: Any) -> str:
    """Folder of a run; that of a shard has a fixed name, so that a rerun continues there."""
    if shard is None or str(shard) in ("", "null", "None"):
        return f"{outputs}/runs/{now}_{label}"
    return f"{outputs}/shards/{label}/{str(shard).replace('/', '-of-')}"


def run_label(experiment: str | None, task: str, model: str, method: str) -> str:
    """Short name of a run for its folder."""
    return experiment or (task if task in ("table", "figure", "evidence", "report", "merge") else f"{model}_{method}")


def default_data(profile: str, model: str) -> str:
    """The data a profile has for what a model does; the paper has none for models that write text."""
    file = conf_dir() / "model" / f"{model}.yaml"
    architecture = ARCHITECTURES.get(OmegaConf.load(file).name if file.is_file() else model)
    kind = architecture.kind if architecture else "detection"
    return "sentences" if (profile, kind) == ("paper", "text") else f"{profile}_{kind}"


def oracle_where_known(_root_: DictConfig) -> list[str] | None:
    """The oracle as a control, for data whose annotations say what decides an answer; none for other data."""
    return ["oracle"] if OmegaConf.select(_root_, "data.annotations") else None


def described(group: str) -> str:
    """The options of a configuration group, a line each, from the first comment of each file."""
    lines = []
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        comments = [x[1:].strip() for x in path.read_text(encoding="utf-8").splitlines() if x.startswith("#")]
        about = next((c for c in comments if not c.startswith("@package")), "")
        lines.append(f"  {path.stem:<20}{about}")
    return "\n".join(lines)


def register() -> None:
    """Make schema and resolvers known to Hydra; safe to call twice."""
    ConfigStore.instance().store(name="schema", node=Config)
    for resolver in (asset, run_dir, run_label, default_data, oracle_where_known, described):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


# Names of one release ago -> today's.
RENAMED = {
    "model.keep": "model.score_threshold",
    "model.submit_unkept": "model.include_below_threshold",
    "model.odam_feature": "parameters.odam.feature",
}
RENAMED_DATA = {f"{profile}_{old}": f"{profile}_{new}" for profile in ("embedded", "paper")
                for old, new in (("detr", "detection"), ("lxmert", "vqa"))}  # fmt: skip


def current_names(overrides: Iterable[str]) -> list[str]:
    """Overrides with options of one release ago under today's names; each is warned of."""
    out = []
    for given in overrides:
        prefix, key, value = re.fullmatch(r"([+~]*)([^=]*)(.*)", given, re.DOTALL).groups()  # type: ignore[union-attr]
        current = given
        if key in RENAMED:
            new = RENAMED[key]
            current = f"{'++' if new.startswith('parameters.') else prefix}{new}{value}"
        elif key == "data" and value.removeprefix("=") in RENAMED_DATA:
            current = f"{prefix}data={RENAMED_DATA[value.removeprefix('=')]}"
        if current != given:
            log.warning("%s is now called %s: the old name goes with the next release", given, current)
        out.append(current)
    return out


def composed(*overrides: str) -> DictConfig:
    """The configuration that these overrides give on the command line, for scripts and tests."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=current_names(overrides))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as JSON-serialisable values."""
    found = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def without_data(cfg: DictConfig) -> DictConfig:
    """The same configuration; explaining an own image needs no data set, so its root may stay unset."""
    if OmegaConf.is_missing(cfg.data, "root"):
        cfg.data.root = ""
    return cfg


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
    """Multiples of the threshold that a run takes, one or several.

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


def texts(cfg: DictConfig) -> list[str] | dict[str, str] | None:
    """What an open-vocabulary detector is to look for: texts, or class name -> text; None where nothing is said.

    Raises:
        ConfigError: for anything else.
    """
    given = cfg.model.texts
    if given is None:
        return None
    if isinstance(given, DictConfig | dict) and given:
        return {str(name): str(text) for name, text in given.items()}
    if isinstance(given, ListConfig | list) and given and len(set(map(str, given))) == len(given):
        return [str(text) for text in given]
    raise ConfigError(f"model.texts={given} must list different texts, [cat,dog], or say {{cat: a photo of a cat}}")


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


# The most that a number may be: beyond it threads, memory or random number generators give out.
MOST = {
    **dict.fromkeys(("batch_size", "chunk_size", "limit"), 2**31 - 1),
    **dict.fromkeys(("threads", "workers"), 1024),
    **{"bootstrap": 10**6, "seed": 2**63 - 1},
}


def validate(cfg: DictConfig) -> None:
    """Check what the types alone do not.

    Raises:
        ConfigError: naming the key, its value and what is expected.
    """
    _known_keys(cfg, OmegaConf.structured(Config))
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ConfigError(f"data.root is not set: name the folder that holds {cfg.data.name}, e.g. data.root=/data")
    if not cfg.model.checkpoint:
        raise ConfigError(
            f"model.checkpoint is not set, and profile={cfg.profile.name} has none for model={cfg.model.name}: give a "
            "folder or a hub id, model.checkpoint=..."
        )
    if cfg.model.name not in (AUTO, *ARCHITECTURES):
        raise ConfigError(f"unknown model {cfg.model.name!r}. Available models: {', '.join((AUTO, *ARCHITECTURES))}")
    scales(cfg)
    parse_shard(cfg.shard)
    if cfg.autocast is not None and cfg.dtype != Precision.float32:
        raise ConfigError(f"autocast={cfg.autocast.name} needs dtype=float32, not {cfg.dtype.name}: drop one of them")
    for key in ("batch_size", "chunk_size"):
        if cfg[key] < 1:
            raise ConfigError(f"{key}={cfg[key]} must be at least 1")
    for key in ("limit", "threads"):
        if cfg[key] is not None and cfg[key] < 1:
            raise ConfigError(f"{key}={cfg[key]} must be at least 1, or null")
    for key, most in MOST.items():
        if cfg[key] is not None and cfg[key] > most:
            raise ConfigError(f"{key}={cfg[key]} must be at most {most}")
    if cfg.seed < 0:
        raise ConfigError(f"seed={cfg.seed} must be 0 or positive")
    if not cfg.perturb and (cfg.metrics is None or {"perturbation", "retention"} & set(cfg.metrics)):
        raise ConfigError("perturb=false computes no answers to perturbed inputs: name other metrics, metrics=[...]")
    if cfg.workers < 0:
        raise ConfigError(f"workers={cfg.workers} must be 0 (off) or positive")
    if cfg.costs < 0:
        raise ConfigError(f"costs={cfg.costs} must be 0 (off) or the number of explanations to measure")
    if cfg.bootstrap < 0 or cfg.bootstrap == 1:
        raise ConfigError(f"bootstrap={cfg.bootstrap} must be 0 (off) or at least 2 resamples")
    if cfg.model.score_threshold is not None and not 0 <= cfg.model.score_threshold < 1:
        raise ConfigError(f"model.score_threshold={cfg.model.score_threshold} is a probability: it must lie in [0, 1)")
    if cfg.target.side is not None and cfg.target.name != "box":
        raise ConfigError(f"target.side={cfg.target.side} is for target=box, not for target={cfg.target.name}")
    for key in ("methods", "metrics", "controls"):
        if cfg[key] is not None and (not cfg[key] or len(set(cfg[key])) != len(cfg[key])):
            raise ConfigError(f"{key}={list(cfg[key])} must name one or more {key}, each once")
