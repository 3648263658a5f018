"""What every part of a run shares: configuration, model, methods, folder, and facts gathered on the way."""

from __future__ import annotations

import importlib
import json
import logging
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from PIL.Image import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hetexp import config
from hetexp.data.registry import get_dataset
from hetexp.errors import ConfigError
from hetexp.evaluation.thresholds.otsu import OTSU
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.experiments.engine.fingerprint import attribution_fingerprint, checkpoint_digest, versions
from hetexp.experiments.engine.methods import MethodSpec, resolve_methods
from hetexp.experiments.engine.threads import share_of_cores
from hetexp.experiments.engine.thresholds import resolve_strategy
from hetexp.files import atomic_write, content_hash
from hetexp.garbage import uncollected
from hetexp.models.registry import ANY, ARCHITECTURES, load_model
from hetexp.targets import automatic

if TYPE_CHECKING:
    from hetexp.experiments.engine.store import Store

log = logging.getLogger("hetexp")


@dataclass
class Session:
    """One run."""

    cfg: DictConfig
    folder: Path
    methods: list[MethodSpec]
    facts: dict[str, Any] = field(default_factory=dict)
    chunk_names: list[str] = field(default_factory=list)  # of the whole run, in item order
    baseline: Session | None = None  # a run whose maps are compared with this one's
    pictures: Callable[[int], Iterable[tuple[str, Image]]] | None = None  # captions and samples, for loggers

    @cached_property
    def adapter(self) -> Any:
        """The model, loaded when first needed: a `Detector` or an `Answerer`."""
        cfg = self.cfg
        with uncollected():
            return load_model(
                cfg.model.name,
                cfg.model.checkpoint,
                device=pick_device(cfg.device),
                dtype=getattr(torch, cfg.dtype.name),
                revision=cfg.model.revision,
                score_threshold=cfg.model.score_threshold,
                autocast=None if cfg.autocast is None else cfg.autocast.name,
                texts=config.texts(cfg),
                wiring=cfg.model.wiring,
            )

    @property
    def kind(self) -> str:
        """What the model does, which decides the experiment: "detection" or "vqa"."""
        return ARCHITECTURES.get(self.adapter.name, ANY).kind

    @cached_property
    def checkpoint(self) -> str:
        """Name and content hash of the checkpoint."""
        name = Path(self.cfg.model.checkpoint.rstrip("/")).name
        return f"{name}@{checkpoint_digest(self.adapter)[:12]}"

    @property
    def shard(self) -> tuple[int, int]:
        """Index and number of shards; (0, 1) for a whole run."""
        return config.parse_shard(self.cfg.shard)

    @property
    def is_shard(self) -> bool:
        """Whether this run computes a part of the store only."""
        return self.shard[1] > 1

    @property
    def scales(self) -> list[float]:
        """Multiples of the threshold."""
        return config.scales(self.cfg)

    @cached_property
    def strategy(self) -> Strategy:
        """What gives maps their thresholds."""
        return resolve_strategy(self.cfg)

    def check_masks(self) -> None:
        """Refuse a strategy for a model of which no masks are made.

        Raises:
            ConfigError: naming it.
        """
        if self.kind != "detection" and self.strategy != OTSU:
            raise ConfigError(
                f"threshold.strategy={self.strategy.name} binarises maps of detectors, and no masks are made of "
                f"{self.adapter.name}: leave it out"
            )

    @property
    def target(self) -> Any:
        """What is explained of every prediction."""
        return automatic(self.cfg.target.name, self.cfg.target.side)

    @cached_property
    def data(self) -> Any:
        """The data set, of the kind that the model needs: `DetectionData` or `VqaData`."""
        fitting = get_dataset(self.cfg.data.format, self.kind)  # type: ignore[arg-type]
        limit = None if self.cfg.task.name == "samples" else self.cfg.limit  # of samples, which are chosen among all
        return fitting.open(self.cfg.data, limit=limit, seed=self.cfg.seed)

    @cached_property
    def store(self) -> Store:
        """The store of this run; a shard keeps its own, so that its folder can be carried elsewhere."""
        from hetexp.experiments.engine.store import Store  # pandas with it, and explaining one picture needs neither

        root = self.folder / "store" if self.is_shard else Path(self.cfg.paths.store)
        settings = {"target": self.cfg.target.name, "side": self.cfg.target.side, "batch_size": self.cfg.batch_size}
        if not self.cfg.perturb:
            settings["perturb"] = False
        fingerprint = attribution_fingerprint(self.adapter, settings)
        return Store(root, fingerprint, f"{self.adapter.name}-{self.cfg.data.name}")

    def kept(self) -> str:
        """What of this run is stored, in words; "" while nothing is."""
        index, count = self.shard
        mine = self.chunk_names[index::count]
        done = [c for c in mine if all(self.store.exists(c, s.unit, s.settings) for s in self.methods)]
        return f"{len(done)} of {len(mine)} chunks are in {self.store.folder}" if done else ""

    @property
    def progress(self) -> Progress:
        """A new display of progress, with the time left."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            disable=not self.cfg.progress,
            transient=False,
        )


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: for a device that does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        kinds = "auto, cpu, cuda or cuda:1" if name.partition(":")[0] not in ("cpu", "cuda") else "auto"
        raise ConfigError(
            f"device={name!r} cannot be used here ({str(error).splitlines()[0]}): try device={kinds}"
        ) from error
    return device


def import_plugins(names: Iterable[str]) -> None:
    """Import modules that register methods, metrics and the like; the working directory is searched like any other.

    Raises:
        ConfigError: for a module that is not there.
    """
    for name in names:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
            raise ConfigError(
                f"plugins: there is no module {name!r} in the working directory or the environment: give the name of a "
                "Python module, e.g. plugins=[my_methods]"
            ) from error


def _side_by_side() -> int:
    """Processes that Hydra's launcher runs at a time on this machine."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return 1
    launcher = HydraConfig.get().launcher
    return max(1, int(launcher.get("n_jobs") or 1))


def open_session(cfg: DictConfig, folder: Path | None = None) -> Session:
    """Check the configuration and prepare a run's folder (by default Hydra's) with its `config.yaml`."""
    folder = folder or Path(HydraConfig.get().runtime.output_dir)
    config.validate(cfg)
    import_plugins(cfg.plugins)
    torch.set_num_threads(cfg.threads or min(torch.get_num_threads(), share_of_cores(_side_by_side())))
    methods = resolve_methods(cfg)
    resolve_strategy(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = config.plain(cfg)
    atomic_write(folder / "config.yaml", OmegaConf.to_yaml(resolved))
    facts = {
        "versions": versions(),
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "config_hash": content_hash(resolved),
    }
    return Session(cfg, folder, methods, facts)


def write_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `run.json`: times, versions, machine facts and counts of skips, which are no results."""
    atomic_write(folder / "run.json", json.dumps(facts, indent=2, sort_keys=True, default=str) + "\n")
