"""task=explain: what can be told to be wrong without a model is refused before torch and the model load.

That takes seconds, and most slips are a path or an option.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from hetexp import config
from hetexp.attribution.registry import parse_name
from hetexp.data.pictures import open_image
from hetexp.errors import ConfigError
from hetexp.garbage import import_for_good
from hetexp.models.registry import ARCHITECTURES, check_source, suffixes_of

# Options that only some models of those that explain a picture can use, by what they do.
SOME_USE = {"detection": ("query",), "vqa": ("question",)}


def run_explain(cfg: DictConfig) -> None:
    """task=explain.

    Raises:
        ConfigError: for an option that cannot be.
        CheckpointError: for a checkpoint that is not there.
        DataError: for a file that is no image.
    """
    config.validate(config.without_data(cfg))
    check_source(cfg.model.checkpoint, suffixes_of(cfg.model.name, cfg.model.wiring))
    if cfg.methods is not None and not cfg.plugins:  # plugins bring methods of their own
        for name in cfg.methods:
            parse_name(name)
    architecture = ARCHITECTURES.get(cfg.model.name)
    picture = None
    if architecture is not None and architecture.kind in SOME_USE:
        check_options(cfg, architecture.name, architecture.kind)
        picture = asked_picture(cfg)
    import_for_good("hetexp.experiments.explain_own:run")(cfg, picture)


def check_options(cfg: DictConfig, name: str, kind: str) -> None:
    """Refuse a command without an image, or with what a model that explains one cannot use.

    Args:
        cfg: the configuration.
        name: of the model.
        kind: what it does.

    Raises:
        ConfigError: naming the option.
    """
    if not cfg.image:
        raise ConfigError("task=explain needs an image: image=photo.jpg")
    for option in ("text", "audio", "written", "query", "question"):
        if cfg[option] is not None and option not in SOME_USE[kind]:
            raise ConfigError(f"{option}={cfg[option]} is nothing that {name} can use: leave it out")


def asked_picture(cfg: DictConfig) -> Image.Image:
    """The picture of `image=`, as it is looked at.

    Raises:
        ConfigError: if there is no such file.
        DataError: if it is no image.
    """
    return open_image(Path(cfg.image), upright=True)
