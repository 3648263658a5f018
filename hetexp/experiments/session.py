"""What every experiment of a run shares: device, model, methods, run facts."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from PIL.Image import Image

from hetexp import config
from hetexp.errors import ConfigError
from hetexp.experiments.files import atomic_text
from hetexp.experiments.fingerprint import attribution_fingerprint, checkpoint_digest, versions
from hetexp.experiments.memory import Halving
from hetexp.experiments.methods import MethodSpec, resolve_methods
from hetexp.experiments.store import Store, content_hash
from hetexp.models.detr import DetrAdapter
from hetexp.models.load import AnyAdapter, load_model

log = logging.getLogger("hetexp")


@dataclass
class Session:
    """One run: configuration, model, methods, folder, and facts gathered on the way."""

    cfg: DictConfig
    folder: Path
    shard: tuple[int, int]
    methods: list[MethodSpec]
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: Callable[[int], Iterable[tuple[str, Image]]] | None = None  # captions and samples, for loggers
    _adapter: AnyAdapter | None = None
    _checkpoint: str | None = None

    @property
    def adapter(self) -> AnyAdapter:
        """The model, loaded when first needed."""
        if self._adapter is None:
            self._adapter = open_model(self.cfg)
        return self._adapter

    @cached_property
    def in_memory(self) -> Halving:
        """Runs batches, halving those that do not fit."""
        return Halving(
            f"free memory on {self.adapter.device}, take another device, or raise model.keep={self.cfg.model.keep} so "
            "that fewer detections are explained"
            if self.cfg.model.name == "detr"
            else f"free memory on {self.adapter.device} or take another device"
        )

    @property
    def checkpoint(self) -> str:
        """Name and content hash of the checkpoint."""
        if self._checkpoint is None:
            name = Path(self.cfg.model.checkpoint.rstrip("/")).name
            self._checkpoint = f"{name}@{checkpoint_digest(self.adapter)[:12]}"
        return self._checkpoint

    def store(self, **settings: Any) -> Store:
        """The store of this run; a shard keeps its own, so that its folder can be carried elsewhere."""
        root = self.folder / "store" if self.shard[1] > 1 else Path(self.cfg.paths.store)
        fingerprint = attribution_fingerprint(
            self.adapter, {"target": self.cfg.target.name, "batch_size": self.cfg.batch_size, **settings}
        )
        return Store(root, fingerprint, f"{self.adapter.name}-{self.cfg.data.name}")

    def row(self, spec: MethodSpec | None, threshold: float | None = None) -> dict[str, Any]:
        """The columns of results.csv that say what a number belongs to."""
        return {
            "experiment": self.cfg.experiment or "",
            "model": self.cfg.model.name,
            "checkpoint": self.checkpoint,
            "data": self.cfg.data.name,
            "method": spec.name if spec else "",
            "correction": spec.correction if spec else "",
            "noise_link": spec.noise_link if spec else "",
            "threshold": threshold,
        }


def open_model(cfg: DictConfig) -> AnyAdapter:
    """Load the configured model on the configured device."""
    adapter = load_model(
        cfg.model.name,
        cfg.model.checkpoint,
        device=pick_device(cfg.device),
        dtype=getattr(torch, cfg.dtype),
        revision=cfg.model.revision,
    )
    if isinstance(adapter, DetrAdapter):
        adapter.keep = cfg.model.keep
        adapter.autocast = None if cfg.autocast is None else getattr(torch, cfg.autocast)
    return adapter


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
        raise ConfigError(
            f"device={name!r} cannot be used here ({str(error).splitlines()[0]}): try device=auto"
        ) from error
    return device


def open_session(cfg: DictConfig) -> Session:
    """The session of this Hydra run."""
    return session_for(cfg, run_folder())


def run_folder() -> Path:
    """The folder Hydra made for this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def session_for(cfg: DictConfig, folder: Path) -> Session:
    """Check the configuration and prepare a run's folder with its `config.yaml`."""
    config.validate(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    methods = resolve_methods(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    atomic_text(folder / "config.yaml", OmegaConf.to_yaml(resolved))
    facts = {
        "versions": versions(),
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "config_hash": content_hash(resolved),
    }
    return Session(cfg, folder, config.parse_shard(cfg.shard), methods, facts)
