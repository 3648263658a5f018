"""task=explain for models that write text and for two towers: text, pictures and sound of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hetexp.api import explain
from hetexp.data.pictures import open_image
from hetexp.data.sound import read_sound
from hetexp.errors import ConfigError, InputError
from hetexp.experiments.engine.samples import shown_methods
from hetexp.experiments.engine.session import Session
from hetexp.explanation import Explanation
from hetexp.generated import written_by
from hetexp.models.encoder_decoder import SAMPLING_RATE
from hetexp.models.writer import Writer
from hetexp.targets import Logit

EXAMPLES = {"text": 'text="two dogs"', "image": "image=photo.jpg", "audio": "audio=speech.wav"}
MOST_WRITTEN = 32  # tokens
SIMILARITY = "similarity of text and image"


def explain_inputs(session: Session) -> Explanation:
    """What a model makes of the inputs that the configuration names, explained.

    A model that writes is explained for every token of `written`, or of what it writes greedily without; `query` names
    one of these. Two towers are explained for the similarity of text and picture.

    Raises:
        ConfigError: for an input that is missing, or an option that this model cannot use.
        InputError: for an input that the model cannot read.
        DataError: for a file that cannot be read.
    """
    cfg, adapter = session.cfg, session.adapter
    given = named_inputs(session)
    inputs: dict[str, Tensor] = adapter.prepare(**_opened(given))
    targets = [Logit(0, query=0)]
    if isinstance(adapter, Writer):
        inputs, targets = to_write(adapter, inputs, cfg.written, cfg.query)
    explained = explain(adapter, inputs, shown_methods(session), targets)
    if not isinstance(adapter, Writer):  # a logit of the only text there is: its number says nothing
        explained.rows = [replace(row, target=SIMILARITY, label=given["text"]) for row in explained.rows]
    if "image" in given:
        explained.image = seen_picture(adapter, inputs)
    if "audio" in given:
        _cut_sound(explained, adapter, inputs, len(read_sound(Path(given["audio"]), SAMPLING_RATE)) / SAMPLING_RATE)
    name_tokens(explained, adapter, inputs)
    explained.details["inputs"] = {name: Path(v).name if name != "text" else v for name, v in given.items()}
    return explained


def named_inputs(session: Session) -> dict[str, str]:
    """Name of an input -> its value, of what the model reads.

    Raises:
        ConfigError: for an input that is missing, or an option that this model cannot use.
    """
    cfg, adapter = session.cfg, session.adapter
    reads = [name for name in inspect.signature(adapter.prepare).parameters if name != "target"]
    given = {name: str(cfg[name]) for name in EXAMPLES if cfg[name] is not None}
    writes = isinstance(adapter, Writer)
    if cfg.question is not None:
        if "answer" not in adapter.sources:
            raise ConfigError(f"question= is for models that answer questions, not for {adapter.name}: use text=")
        if "text" in given:
            raise ConfigError("text= and question= say the same thing for this model: give one of them")
        given["text"] = str(cfg.question)
    missing = [EXAMPLES[name] for name in reads if name not in given or not given[name].strip()]
    if missing:
        raise ConfigError(f"task=explain of {adapter.name} needs {' and '.join(missing)}")
    useless: dict[str, Any] = {name: given[name] for name in given if name not in reads}
    useless |= {} if writes else {name: cfg[name] for name in ("written", "query") if cfg[name] is not None}
    useless |= {"answers": list(cfg.answers)} if cfg.answers is not None else {}
    useless |= {"levels": True} if cfg.levels else {}
    useless |= {"target": cfg.target.name} if cfg.target.name != "logit" else {}
    if useless:
        name, value = next(iter(useless.items()))
        raise ConfigError(f"{name}={value} is nothing that {adapter.name} can use: leave it out")
    return {name: given[name] for name in reads}


def _opened(given: Mapping[str, str]) -> dict[str, Any]:
    """Inputs as `prepare` takes them."""
    found: dict[str, Any] = dict(given)
    if "image" in given:
        found["image"] = open_image(Path(given["image"]), upright=True)
    if "audio" in given:
        found["audio"] = read_sound(Path(given["audio"]), SAMPLING_RATE)
    return found


def to_write(
    adapter: Writer, inputs: Mapping[str, Tensor], written: str | None, query: Any
) -> tuple[dict[str, Tensor], list[Logit]]:
    """Inputs with the sentence that is explained, and the targets: every token of it, or the one that `query` counts.

    Raises:
        ConfigError: for a `query` that is no number.
        InputError: for one that the sentence does not have, or a sentence without tokens.
    """
    if written is None:
        batch, targets = written_by(adapter, inputs, MOST_WRITTEN)
    else:
        prefix = adapter.placed(adapter.prefix([written]))["decoder_input_ids"]
        if prefix.shape[1] < 2:
            raise InputError(f"written={written!r} has no token: give some words")
        targets = [Logit(int(token), query=t) for t, token in enumerate(prefix[0, 1:].tolist())]
        batch = {**inputs, "decoder_input_ids": prefix[:, :-1]}
    if query is None:
        return batch, targets
    if not str(query).isdigit():
        raise ConfigError(f"query={query} of a model that writes is the number of a written token, counted from 0")
    if int(query) >= len(targets):
        raise InputError(f"query={query} does not exist: {len(targets)} tokens were written")
    return batch, [targets[int(query)]]


def name_tokens(explained: Explanation, adapter: Any, inputs: Mapping[str, Tensor]) -> None:
    """Say what the tokens of every source are, and which of them stand for no word."""
    explained.token_texts = adapter.token_texts(inputs)
    explained.written = getattr(adapter, "written", None)
    special = set(adapter.tokenizer.all_special_tokens)
    explained.special_tokens = {
        source: [i for i, token in enumerate(tokens) if token in special]
        for source, tokens in explained.token_texts.items()
    }


def seen_picture(adapter: Any, inputs: Mapping[str, Tensor]) -> Image.Image:
    """The picture as the model sees it, resized and cropped: relevance lies on that, not on the file."""
    pixels = inputs["pixel_values"][0].double().cpu()
    processor = getattr(adapter.processor, "image_processor", adapter.processor)
    if getattr(processor, "do_normalize", True):
        mean, std = (torch.tensor(getattr(processor, name)).double() for name in ("image_mean", "image_std"))
        pixels = pixels * std[:, None, None] + mean[:, None, None]
    values = (255 * pixels.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(values))


def _cut_sound(explained: Explanation, adapter: Any, inputs: Mapping[str, Tensor], seconds: float) -> None:
    """Keep what belongs to the recording: the model hears silence after it up to its fixed length.

    Raises:
        InputError: for a recording that is longer than the model hears.
    """
    features = inputs["input_features"][0].cpu()
    extractor = getattr(adapter.processor, "feature_extractor", adapter.processor)
    whole = features.shape[1] * extractor.hop_length / SAMPLING_RATE
    if seconds > whole:
        raise InputError(f"the recording lasts {seconds:.1f} s, and {adapter.name} hears {whole:g} s at a time: cut it")
    share = seconds / whole
    explained.sound = features[:, : max(1, round(share * features.shape[1]))], seconds
    for streams in explained.relevance.values():
        streams["audio"] = streams["audio"][:, : max(1, round(share * streams["audio"].shape[1]))]
    explained.grids = [{**explained.grids[0], "audio": streams["audio"].shape[1:]}]
