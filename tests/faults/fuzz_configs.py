"""Damaged configurations, run with a tiny detector."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz_annotations import METRICS, Toy
from mutate import NASTY, by_part
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hetexp import config
from hetexp.config import Config
from hetexp.errors import ConfigError
from hetexp.experiments.detection.run import run
from hetexp.experiments.engine.session import open_session

# Decided before a run of this toy begins, or of no part in it.
LEFT_OUT = ("profile", "logger", "task", "plugins", "shard", "progress", "merge", "report", "perturb")


class Configs(Toy):
    """Configurations: one to three entries hold something else, as a slip in a YAML file may have it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clean = config.plain(self.session().cfg)
        self.damaged = self.clean

    def damage(self, rng: Random) -> bytes:
        """A configuration with one to three nasty entries."""
        self.damaged = json.loads(json.dumps(self.clean))
        kept = {key: value for key, value in self.damaged.items() if key not in LEFT_OUT}
        for _ in range(rng.choice((1, 1, 2, 3))):
            holder, key = by_part(rng, kept)
            holder[key] = rng.choice(NASTY)
        self.damaged |= kept
        return json.dumps(self.damaged).encode()

    def number(self) -> dict[str, float | None]:
        """The segmentation metrics of a run with this configuration, which is checked like any other."""
        try:
            cfg = OmegaConf.merge(OmegaConf.structured(Config), self.damaged)
            assert isinstance(cfg, DictConfig)
            session = open_session(cfg, self.folder / "run")
        except OmegaConfBaseException as error:  # Hydra prints it in two lines
            raise ConfigError(str(error)) from error
        same = all(self.damaged[key] == self.clean[key] for key in ("model", "device", "dtype", "autocast"))
        if same:
            session.__dict__["adapter"] = self.adapter  # a cached property
        results = run(session)
        return {r.metric: r.value for r in results if r.panel == "segm" and r.metric in METRICS}

    def confirmed(self, content: bytes, number: Any) -> bool:
        """Whether the run's record says what was asked for; a sound value may give another number."""
        recorded = OmegaConf.to_container(OmegaConf.load(self.folder / "run" / "config.yaml"))
        return bool(recorded != self.clean)
