"""Command line: one Hydra application, the same from a checkout (run.py) and when installed (hetexp)."""

from __future__ import annotations

import logging
import os
import sys

import hydra
from omegaconf import DictConfig

from hetexp import __version__, config
from hetexp.errors import HetexpError
from hetexp.paths import conf_dir

log = logging.getLogger("hetexp")

# Threads that wait for each other by spinning slow two runs on one machine down twentyfold; set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

config.register()

STOPPED = 130  # what shells expect of a command that Ctrl-C has ended


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _run(cfg: DictConfig) -> None:
    from hetexp.tasks import run  # torch and transformers load only when something needs them

    try:
        run(cfg)
    except HetexpError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        log.error("%s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        log.error("stopped; what is stored is kept, and the same command continues there")
        sys.exit(STOPPED)


def main() -> None:
    """Run the task that the command line describes; errors a user can fix end with exit code 1."""
    if sys.argv[1:] == ["--version"]:
        print(f"hetexp {__version__}")
        return
    logging.basicConfig(format="%(message)s")
    sys.argv[1:] = config.current_names(sys.argv[1:])
    logging.getLogger().handlers.clear()  # Hydra sets up its own
    _run()


if __name__ == "__main__":
    main()
