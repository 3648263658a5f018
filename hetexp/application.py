"""The Hydra application: composes the configuration and runs its task."""

from __future__ import annotations

import logging
import os
import string
import sys
from collections.abc import Sequence

import hydra
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from hetexp import config
from hetexp.errors import ConfigError, HetexpError
from hetexp.garbage import uncollected
from hetexp.overrides import check_overrides, check_writable
from hetexp.paths import conf_dir
from hetexp.stopping import silent_worker

log = logging.getLogger("hetexp")

_SHOW_ONLY = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")

config.register()

_HELP = ("--help", "-h")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _run(cfg: DictConfig) -> None:
    silent_worker()
    from hetexp.tasks import run  # torch and transformers load only when something needs them

    try:
        run(cfg)
    except HetexpError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        log.error("%s", error)
        sys.exit(1)


def run_command_line() -> None:
    """Run what `sys.argv` asks for; errors that a user can fix end with exit code 1."""
    logging.basicConfig(format="%(message)s")
    sys.argv[1:] = config.current_names(sys.argv[1:])
    try:
        check_overrides(sys.argv[1:])
        if not any(argument.startswith(_SHOW_ONLY) for argument in sys.argv[1:]):
            check_writable(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    logging.getLogger().handlers.clear()  # Hydra sets up its own
    overrides = [argument for argument in sys.argv[1:] if argument not in _HELP]
    if len(overrides) < len(sys.argv[1:]) and not any(override.startswith("-") for override in overrides):
        print(help_text(overrides))
        return
    _run()


def help_text(overrides: Sequence[str]) -> str:
    """What `--help` prints: the template of conf/config.yaml and the configuration that the overrides give.

    As Hydra prints it, which takes a second to list every option of every group for templates that ask for them.
    """
    with uncollected(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    template = string.Template(cfg.hydra.help.template)
    with open_dict(cfg):
        del cfg["hydra"]
    return template.substitute(CONFIG=OmegaConf.to_yaml(cfg))
