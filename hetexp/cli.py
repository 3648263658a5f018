"""Command line: one Hydra application, the same from a checkout (run.py) and when installed (hetexp)."""

from __future__ import annotations

import logging
import os
import sys

import hydra
from omegaconf import DictConfig

from hetexp import config
from hetexp.errors import HetexpError
from hetexp.paths import conf_dir

log = logging.getLogger("hetexp")

config.register()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(cfg: DictConfig) -> None:
    """Run the task that the configuration describes; errors a user can mend end with exit code 1."""
    from hetexp.experiments.runner import run  # torch and transformers load only when something runs

    try:
        run(cfg)
    except HetexpError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        log.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
