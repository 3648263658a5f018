"""Explanations as plain arrays, and as the files of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetexp.errors import DataError
from hetexp.evaluation.masks import to_uint8
from hetexp.evaluation.thresholds.otsu import OTSU, otsu_thresholds
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.files import PNG_COMPRESSION

if TYPE_CHECKING:
    from hetexp.explanation import Explanation, Row
    from hetexp.reporting.samples import StoredExplanation

# What `save` derives from an explanation for `info.json`; the rest of that file is `details`.
_OWN_ENTRIES = (
    *("kind", "methods", "rows", "provenance", "detections", "targets", "scales", "upsample", "input_size", "otsu"),
    *("strategy", "tie"),
    *("question", "tokens", "answers", "boxes"),
    *("explained", "token_texts", "special_tokens", "written", "without_relevance", "seconds"),
)
_LOGIT = re.compile(r"^logit\((.+)\)$", re.DOTALL)  # of a target in words: the class that it names


Parts = tuple[dict[str, Any], Any, Any, Any]  # info, relevance, masks, levels


@dataclass(frozen=True)
class MaskSettings:
    """Which masks of an explanation are stored; the entries are those of `hetexp.evaluation.masks.segment`.

    Attributes:
        scales: multiples of the threshold; without any there are no masks.
        upsample: how masks get to the size of the image.
        tie: what a token exactly at the threshold is.
        strategy: what gives maps their thresholds.
    """

    scales: Sequence[float] = ()
    upsample: str = "reference"
    tie: str = "background"
    strategy: Strategy = OTSU


def to_stored(one: Explanation, masks: MaskSettings) -> StoredExplanation:
    """What a drawing needs of the explanation of one input, without padding, as plain arrays."""
    from hetexp.reporting.samples import StoredExplanation

    if one.kind == "detection":
        parts = _detection(one, masks)
    else:
        parts = _answer(one) if one.kind == "vqa" else _sources(one)
    info, relevance, made, levels = parts
    info |= {
        "kind": one.kind,
        "methods": list(one),
        "rows": [asdict(row) for row in one.rows],
        "provenance": one.provenance,
        **one.details,
    }
    picture = None if one.image is None else np.asarray(one.image.convert("RGB"))
    return StoredExplanation(picture, info, relevance, made, levels)


def _detection(one: Explanation, asked: MaskSettings) -> Parts:
    extent = one._extent()
    height, width = extent if one.image is None else one.image.size[::-1]
    maps = {name: streams["image"].float().cpu() for name, streams in one.relevance.items()}
    masks = {}
    for scale in asked.scales:
        for name, found in one.masks(scale, None, asked.upsample, asked.tie, asked.strategy).items():
            if bool(maps[name].isfinite().all()):
                masks[f"{name}@{scale:g}"] = found.numpy()
    levels = {name: to_uint8(torch.where(m.isfinite(), m, 0)) for name, m in maps.items()}
    side = np.array([width, height, width, height])
    info = {
        "detections": [
            {"query": r.query, "label": r.label, "score": r.score, "box": (side * np.array(r.box)).tolist()}
            for r in one.rows
        ],
        "targets": one.targets,
        "scales": list(asked.scales),
        "upsample": asked.upsample,
        "tie": asked.tie,
        "strategy": asked.strategy.name,
        "input_size": list(extent),
        "otsu": {name: otsu_thresholds(u8).tolist() for name, u8 in levels.items()},
    }
    relevance = {name: m.numpy() for name, m in maps.items()}
    return info, relevance, masks, {name: u8.numpy() for name, u8 in levels.items()}


def _answer(one: Explanation) -> Parts:
    relevance = {
        f"{key}/{source}": values[i].float().cpu().numpy()
        for name, streams in one.relevance.items()
        for i, key in enumerate(_keys(name, one.rows))
        for source, values in streams.items()
    }
    width, height = (1, 1) if one.image is None else one.image.size
    regions = torch.zeros(0, 4) if one.regions is None else one.regions.float().cpu()
    info = {
        "question": one.question,
        "tokens": one.words,
        "answers": one.answers,
        "boxes": (regions * torch.tensor([width, height, width, height])).tolist(),
        "targets": _names(one.rows),
    }
    return info, relevance, {}, {}


def _sources(one: Explanation) -> Parts:
    relevance = {
        f"{name}/{source}": values.float().cpu().numpy()
        for name, streams in one.relevance.items()
        for source, values in streams.items()
    }
    info: dict[str, Any] = {
        "targets": one.targets,
        "explained": [_LOGIT.sub(r"\1", target) for target in one.targets],
        "token_texts": one.token_texts,
        "special_tokens": one.special_tokens,
        "written": one.written,
        "without_relevance": {
            source: [sorted(_unseen(one, source, row, len(tokens))) for row in one.rows]
            for source, tokens in one.token_texts.items()
        },
    }
    if one.sound is not None:
        relevance["spectrogram"] = one.sound[0].float().cpu().numpy()
        info["seconds"] = one.sound[1]
    return info, relevance, {}, {}


def _unseen(one: Explanation, source: str, row: Row, count: int) -> set[int]:
    """Positions of a source that hold no relevance for a row: special tokens, and what is written from it on."""
    later = range(row.query, count) if source == one.written and row.query is not None else ()
    return {*one.special_tokens.get(source, ()), *later}


def write_files(plain: StoredExplanation, image: Image.Image | None, folder: Path) -> None:
    """Write what `Explanation.save` says into an empty folder."""
    if image is not None:
        image.convert("RGB").save(folder / "image.png", compress_level=PNG_COMPRESSION)
    tensors = {
        "relevance": plain.relevance,
        "levels": plain.levels,
    }
    for name, arrays in tensors.items():
        if arrays:
            save_file(
                {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()},
                folder / f"{name}.safetensors",
            )
    if plain.masks:
        from hetexp.reporting.run_lengths import encode_masks

        (folder / "masks.json").write_text(encode_masks(plain.masks), encoding="utf-8")
    text = json.dumps(plain.info, indent=1, ensure_ascii=False)
    (folder / "info.json").write_text(text + "\n", encoding="utf-8")


def read_files(path: Path, explanation: type[Explanation], row: type[Row]) -> Explanation:
    """The explanation that a folder holds.

    Raises:
        DataError: for a folder that is none of these, or damaged.
    """
    try:
        info = json.loads((path / "info.json").read_text(encoding="utf-8"))
        stored = load_file(path / "relevance.safetensors")
        rows = [row(**{**r, "box": None if r["box"] is None else tuple(r["box"])}) for r in info["rows"]]
        image = None
        if (path / "image.png").is_file():
            with Image.open(path / "image.png") as opened:
                image = opened.convert("RGB")
        extent: tuple[int, int] | None = None
        if info["kind"] == "detection":
            relevance = {name: {"image": stored[name]} for name in info["methods"]}
            extent = (int(info["input_size"][0]), int(info["input_size"][1]))
        elif info["kind"] == "vqa":
            relevance = _rows_by_source(stored, info["methods"], rows)
        else:
            relevance = {
                name: {key.partition("/")[2]: x for key, x in stored.items() if key.startswith(f"{name}/")}
                for name in info["methods"]
            }
        first = next(iter(relevance.values()), {})
        return explanation(
            relevance,
            rows,
            info["kind"],
            info["provenance"],
            [{source: tuple(x.shape[1:]) for source, x in first.items()}],
            [extent],
            image,
            info.get("question"),
            info.get("tokens"),
            _relative(info.get("boxes"), image),
            info.get("answers"),
            {k: v for k, v in info.items() if k not in _OWN_ENTRIES},
            token_texts=info.get("token_texts", {}),
            special_tokens=info.get("special_tokens", {}),
            written=info.get("written"),
            sound=(stored["spectrogram"], float(info["seconds"])) if "spectrogram" in stored else None,
        )
    except (
        *(OSError, SafetensorError, ValueError, SyntaxError),  # files that cannot be read
        *(LookupError, TypeError, AttributeError, RuntimeError),  # entries that do not fit each other
    ) as error:
        raise DataError(f"{path} holds no explanation, or a damaged one ({error}): save it again") from error


def _names(rows: Sequence[Row]) -> list[str]:
    """A distinct name for each of the rows that explain one prediction: its own, or else its target in words."""
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        names = [row.target for row in rows]
    return [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _keys(method: str, rows: Sequence[Row]) -> list[str]:
    """What relevance of each row is stored under: the method's name, and for further rows theirs besides."""
    return [method if i == 0 else f"{method}:{name}" for i, name in enumerate(_names(rows))]


def _rows_by_source(
    stored: Mapping[str, Tensor], methods: Sequence[str], rows: Sequence[Row]
) -> dict[str, dict[str, Tensor]]:
    if not methods:
        raise ValueError("it names no method")
    sources = dict.fromkeys(key.rpartition("/")[2] for key in stored)
    return {
        method: {s: torch.stack([stored[f"{key}/{s}"] for key in _keys(method, rows)]) for s in sources}
        for method in methods
    }


def _relative(boxes: Any, image: Image.Image | None) -> Tensor | None:
    if not boxes:
        return None
    width, height = (1, 1) if image is None else image.size
    return torch.tensor(boxes).reshape(-1, 4) / torch.tensor([width, height, width, height])
