"""Explain a sentence that a model writes, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from torch import Tensor

from hetexp.api import Methods, explain
from hetexp.errors import ConfigError, InputError
from hetexp.explanation import Explanation
from hetexp.targets import Logit


def explain_generated(
    adapter: Any,
    inputs: Mapping[str, Tensor],
    methods: Methods,
    *,
    max_new_tokens: int = 32,
    image: Image | None = None,
) -> Explanation:
    """Raw relevance for every token that a model writes greedily, a row each.

    The sentence is written first. One more forward pass is given it as the decoder's inputs, and every token costs one
    backward pass; a row equals that of `explain` on the tokens before alone.

    Args:
        adapter: a model that writes text.
        inputs: the library model's own keyword tensors for one input; `decoder_input_ids` [1, N] are a beginning that
            the model goes on from (Whisper's language and task).
        methods: as for `explain`.
        max_new_tokens: tokens to write at most.
        image: the picture, kept for drawing.

    Raises:
        ConfigError: for a model that writes no text.
        InputError: for a batch of several inputs.
    """
    batch, targets = written_by(adapter, inputs, max_new_tokens)
    return explain(adapter, batch, methods, targets, image=image)


def written_by(
    adapter: Any, inputs: Mapping[str, Tensor], max_new_tokens: int
) -> tuple[dict[str, Tensor], list[Logit]]:
    """What a model writes greedily: inputs with all of it but the last token, and a target for every token.

    Raises:
        ConfigError: for a model that writes no text.
        InputError: for a batch of several inputs.
    """
    if not hasattr(adapter, "generate"):
        raise ConfigError(f"{adapter.name} writes no text: explain its predictions with hetexp.explain")
    batch = adapter.placed(inputs)
    if adapter.batch_size(batch) != 1:
        raise InputError(f"{adapter.batch_size(batch)} inputs were given: explain generated sentences one at a time")
    ids = adapter.generate(inputs, max_new_tokens)
    start = batch["decoder_input_ids"].shape[1]
    targets = [Logit(int(ids[0, t + 1]), query=t) for t in range(start - 1, ids.shape[1] - 1)]
    written = {key: value for key, value in batch.items() if key != "decoder_attention_mask"}
    return written | {"decoder_input_ids": ids[:, :-1]}, targets
