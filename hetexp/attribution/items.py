"""Single items of a batch, for passes that run one input many times."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hetexp.errors import ConfigError
from hetexp.models.backbone import valid_sizes
from hetexp.models.observe import share
from hetexp.models.protocols import Adapter
from hetexp.models.trace import AttentionTrace, Features

# A mask's name -> what it is a mask of, in the library's own keywords.
MASKED = {
    "attention_mask": ("input_ids", "token_type_ids"),
    "decoder_attention_mask": ("decoder_input_ids",),
    "pixel_mask": ("image_embeds",),
    "visual_attention_mask": ("visual_feats", "visual_pos", "visual_embeds", "visual_token_type_ids"),
}


def singles(
    method: str, adapter: Adapter, inputs: Mapping[str, Tensor], traces: Sequence[AttentionTrace]
) -> list[tuple[dict[str, Tensor], AttentionTrace]]:
    """Every item of a batch alone, with its trace.

    Raises:
        ConfigError: for a model that compares the items of a batch with each other.
    """
    if getattr(adapter, "kind", None) == "similarity":
        raise ConfigError(
            f"{method} runs one item of a batch many times, and {adapter.name} compares items with each other: choose "
            "another method"
        )
    return [(alone(inputs, b, len(traces)), trace) for b, trace in enumerate(traces)]


def require_one_input(method: str, adapter: Adapter, traces: Sequence[AttentionTrace]) -> None:
    """Refuse a model whose targets read different texts.

    Raises:
        ConfigError: saying so.
    """
    if any(trace.alternatives is not None for trace in traces):
        raise ConfigError(
            f"{method} follows the tokens of one input, and the targets of {adapter.name} read different texts: choose "
            "another method"
        )


def alone(inputs: Mapping[str, Tensor], item: int, items: int) -> dict[str, Tensor]:
    """One of a batch's `items` without its padding, as a batch of one: the same whatever it is batched with."""
    out = {name: share(x, items, [item]) for name, x in inputs.items()}
    if "pixel_mask" in out and "pixel_values" in out:
        height, width = valid_sizes(out.pop("pixel_mask"))[0]
        out["pixel_values"] = out["pixel_values"][:, :, :height, :width]
    for mask, masked in MASKED.items():
        if mask in out and out[mask].ndim == 2:
            kept = out[mask].bool().any(0)
            out |= {name: out[name][:, kept] for name in (*masked, mask) if name in out}
    return out


def repeated(inputs: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """A batch of one item several times."""
    return {name: x.repeat(times, *[1] * (x.ndim - 1)) for name, x in inputs.items()}


def generator_of(inputs: Mapping[str, Tensor]) -> np.random.Generator:
    """Random numbers that depend on an item alone, not on the run, the batch or the order of items."""
    seed = 0
    for name in sorted(inputs):
        x = inputs[name].detach().cpu()
        if x.is_floating_point():
            x = x.float()
        seed = zlib.crc32(x.contiguous().numpy().tobytes(), seed)
    return np.random.default_rng(seed)


def as_features(rows: Tensor) -> Features:
    """Numbers per target and token [k, N] in the form in which a trace cuts and slices them."""
    return Features(torch.ones_like(rows[:1].T) if len(rows) else rows.new_ones(rows.shape[1], 1), rows.unsqueeze(-1))


def numbers_of(trace: AttentionTrace, name: str) -> dict[str, Tensor]:
    """What `as_features` put under a name, of every stream with sources [k, N]."""
    return {s: trace.features[name][s].gradient[..., 0] for s in trace.source_streams}
