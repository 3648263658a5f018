"""Made-up inputs for a dry run: whatever a model's forward pass reads, in the sizes that its configuration names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from hetexp.errors import InputError

WORDS, REGIONS = 8, 36  # tokens of a sentence, regions of a picture
PICTURE = (640, 480)  # width and height of a photograph


def _setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of these settings that a configuration, or one of its parts, has."""
    parts = [getattr(config, part, None) for part in ("vision_config", "encoder", "text_config")]
    for name in names:
        for one in (config, *parts):
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def _ids(config: Any) -> Tensor:
    ids = torch.full((1, WORDS), 5)
    end = _setting(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < _setting(config, "vocab_size", default=0):
        ids[:, -1] = end
    return ids


def _pixels(config: Any) -> Tensor:
    size = _setting(config, "image_size", default=224)
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, _setting(config, "num_channels", default=3), height, width)


def _sound(config: Any) -> Tensor:
    return torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)


# Name of an input -> how one is made up from a model's configuration.
MADE_UP: dict[str, Callable[[Any], Tensor]] = {
    "input_ids": _ids,
    "decoder_input_ids": lambda config: torch.full((1, WORDS // 2), 5),
    "pixel_values": _pixels,
    "input_features": _sound,
    "visual_embeds": lambda config: torch.zeros(1, REGIONS, config.visual_embedding_dim),
    "visual_feats": lambda config: torch.zeros(1, REGIONS, config.visual_feat_dim),
    "visual_pos": lambda config: torch.zeros(1, REGIONS, config.visual_pos_dim),
}


def example_inputs(adapter: Any) -> Mapping[str, Tensor]:
    """Inputs of one item that a model takes, of no meaning.

    Detectors are given an empty photograph of 640 × 480 through their own processor.

    Raises:
        InputError: for a model whose inputs cannot be made up.
    """
    if hasattr(adapter, "detect"):
        found: Mapping[str, Tensor] = adapter.prepare([Image.new("RGB", PICTURE)])
        return found
    return made_up(adapter.model)


def made_up(model: nn.Module) -> dict[str, Tensor]:
    """Inputs of one item for a model's forward pass, of no meaning.

    Raises:
        InputError: for a model whose inputs cannot be made up.
    """
    config = getattr(model, "config", None)
    read = inspect.signature(model.forward).parameters
    names = [name for name in MADE_UP if name in read]
    if config is None or not names:
        raise InputError(
            f"inputs of {type(model).__name__} cannot be made up: its forward pass reads {', '.join(read)}; give them"
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    found = {name: MADE_UP[name](config) for name in names}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in found.items()}
