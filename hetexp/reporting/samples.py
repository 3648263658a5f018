"""Explanations as they lie on disk, and the sets of them that `task=samples` makes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hetexp.errors import DataError
from hetexp.reporting.commands import SAMPLES, MissingInput
from hetexp.reporting.names import OTSU, PAPER_METHODS, in_order
from hetexp.reporting.run_lengths import MaskFile, decode_masks

CELL = 32  # pixels of a canvas for each place of a map, where neither image nor size is known
UNKNOWN_SIZE = (320, 320)  # of a canvas for regions
GALLERY_PART = "gallery"  # of samples that the gallery alone shows


@dataclass(frozen=True)
class Thing:
    """An object of the image as it is annotated.

    Attributes:
        mask: bool [H, W].
        named: whether the question names its class.
    """

    mask: np.ndarray
    named: bool = False


class TensorFile(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, read when first looked into.

    Raises:
        DataError: when looked into, if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self.path} cannot be read ({error}): make it again") from error

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class StoredExplanation:
    """One explained input as plain data: in memory, or in a folder (`read`).

    Args:
        image: uint8 [H, W, 3], or the file that holds it; None where it is unknown.
        info: what `info.json` holds, see below.
        relevance: kind "detection": "<method>" [k, h, w]; kind "vqa": "<method>/text" [T] and "<method>/image" [R] of
            regions or [h, w] of patches, and "<method>:<target>/..." for further targets; other kinds:
            "<method>/<source>" [k, ...] of every source, and "spectrogram" [bands, frames] of a sound.
        masks: "<method>@<scale>" [k, H, W], 0 or 1.
        levels: maps as Otsu's threshold sees them, "<method>" uint8 [k, h, w].
        source: what error messages call it.
        command: the command that makes it again, for error messages.

    `info` holds "kind", "methods" and

    - detection: "detections", k dictionaries with "label", "score" and "box"; "targets", k texts, where something else
      than the detection's own logit was explained; "input_size" [h, w]; of annotated images "objects", k dictionaries
      with "correct" (None: cannot be told), "size" and, of a correct detection, "mask", the object's run lengths;
    - text and similarity: "targets" and "explained", what y was and what it is the logit of [k]; "token_texts", source
      -> its tokens; "without_relevance", source -> per row the positions that hold none; "seconds" of a sound;
    - vqa: where known "tokens" [T], "boxes" [R] of regions, "question" and "answers", dictionaries with "answer" and
      "probability"; "accepted", the annotators' answers with their scores; of annotated images "objects", dictionaries
      with "name", "mask" and "named", whether the question names its class.

    "part" says where a sample is shown: "questions", "logic", "gallery".

    Boxes are x1, y1, x2, y2 in pixels of the image. Without an image they are in pixels of "image_size" or
    "input_size", [H, W]; where there is neither, in units of the image's sides.
    """

    def __init__(
        self,
        image: np.ndarray | Path | None,
        info: Mapping[str, Any],
        relevance: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray] | None = None,
        levels: Mapping[str, np.ndarray] | None = None,
        source: str = "the explanation",
        command: str | None = None,
    ) -> None:
        self.info = info
        self.relevance = relevance
        self.masks: Mapping[str, np.ndarray] = {} if masks is None else masks
        self.levels: Mapping[str, np.ndarray] = {} if levels is None else levels
        self.source = source
        self.command = command
        self._image = image

    @classmethod
    def read(cls, folder: Path, command: str | None = None) -> StoredExplanation:
        """An explanation's folder; image and arrays are read when first asked for.

        Raises:
            DataError: if it has no readable `info.json`; later, if another file is damaged.
        """
        path = folder / "info.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}): make the explanation again") from error
        image, masks, levels = (folder / n for n in ("image.png", "masks.json", "levels.safetensors"))
        return cls(
            image if image.exists() else None,
            info,
            TensorFile(folder / "relevance.safetensors"),
            masks=MaskFile(masks) if masks.exists() else None,
            levels=TensorFile(levels) if levels.exists() else None,
            source=str(folder),
            command=command,
        )

    def at_most(self, side: int) -> StoredExplanation:
        """The same for drawing, its image no longer than `side` pixels, without masks and objects."""
        image = self.image
        if image is None or max(image.shape[:2]) <= side:
            return self
        height, width = image.shape[:2]
        factor = side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        scale = np.array([size[0] / width, size[1] / height] * 2)
        info = {key: value for key, value in self.info.items() if key != "objects"}
        if "detections" in info:
            info["detections"] = [{**d, "box": (scale * d["box"]).tolist()} for d in info["detections"]]
        if info.get("boxes"):
            info["boxes"] = (scale * np.array(info["boxes"])).tolist()
        return StoredExplanation(small, info, self.relevance, None, self.levels, self.source, self.command)

    @property
    def kind(self) -> str:
        """ "detection", "vqa", "text" or "similarity"."""
        return str(self.info["kind"])

    @cached_property
    def image(self) -> np.ndarray | None:
        """uint8 [H, W, 3], or None."""
        if not isinstance(self._image, Path):
            return self._image
        try:
            with Image.open(self._image) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self._image} cannot be read ({error}): make it again") from error

    @property
    def ground(self) -> np.ndarray:
        """What maps are drawn on, uint8 [H, W, 3]: the image, or a white canvas of its shape."""
        if self.image is not None:
            return self.image
        grid = self._grid()
        drawn = UNKNOWN_SIZE if grid is None else [CELL * n for n in grid]
        return np.full((*(self._size() or drawn), 3), 255, np.uint8)

    def _size(self) -> Sequence[int] | None:
        size: Sequence[int] | None = self.info.get("image_size") or self.info.get("input_size")
        return size

    def _grid(self) -> tuple[int, int] | None:
        """Height and width of its maps; None for relevance of regions."""
        of_image = self.kind in ("detection", "vqa")  # all that has more than one axis; else there are other sources
        grids = (
            r.shape[-2:] for key, r in self.relevance.items() if r.ndim > 1 and (of_image or key.endswith("/image"))
        )
        return next(grids, None)

    def pixels(self, boxes: Any) -> np.ndarray:
        """Boxes [..., 4] of `info` in pixels of `ground`."""
        found = np.asarray(boxes, dtype=float)
        if self.image is not None or self._size() is not None:
            return found
        height, width = self.ground.shape[:2]
        return found * np.array([width, height, width, height])

    @property
    def regions(self) -> np.ndarray:
        """Boxes of the image's tokens in pixels of `ground`: regions, or the cells of a grid, row by row [R, 4].

        Raises:
            DataError: if it is not known where its regions lie.
        """
        if self.info.get("boxes"):
            return self.pixels(self.info["boxes"])
        grid = self._grid()
        if grid is None:
            raise self.lacks("boxes of its regions")
        y, x = (n.reshape(-1) for n in np.indices(grid))
        rows, columns = grid
        height, width = self.ground.shape[:2]
        sides = [x * width / columns, y * height / rows, (x + 1) * width / columns, (y + 1) * height / rows]
        return np.stack(sides, axis=1)

    @property
    def tokens(self) -> list[str]:
        """The question's words [T]; their numbers where the words are not known."""
        words: list[str] | None = self.info.get("tokens")
        if words:
            return words
        count = next((len(r) for key, r in self.relevance.items() if key.endswith("/text")), 0)
        return [str(n) for n in range(count)]

    @property
    def methods(self) -> list[str]:
        """The methods whose relevance it holds, in the order of print."""
        if self.kind in ("text", "similarity"):
            held = {key.partition("/")[0] for key in self.relevance}
            return in_order(m for m in self.info["methods"] if m in held)
        end = "/image" if self.kind == "vqa" else ""
        return in_order(m for m in self.info["methods"] if f"{m}{end}" in self.relevance)

    def further_targets(self, method: str) -> list[str]:
        """Targets that were explained besides the first (kind "vqa"): "<method>:<target>" is a key of theirs."""
        start, end = f"{method}:", "/image"
        return [k[len(start) : -len(end)] for k in self.relevance if k.startswith(start) and k.endswith(end)]

    def need(self, key: str) -> np.ndarray:
        """One relevance map.

        Raises:
            DataError: if the input was explained without it.
        """
        if key not in self.relevance:
            raise self.lacks(key)
        return self.relevance[key]

    @cached_property
    def objects(self) -> list[Thing | None]:
        """The annotated object of each detection, None where there is none [k], or all objects of a question's image.

        Raises:
            DataError: if `info` says nothing of them, as samples made by earlier versions, or something damaged.
        """
        if "objects" not in self.info:
            raise self.lacks("annotated objects, whose outlines are drawn")
        return [self._thing(one) for one in self.info["objects"] or ()]

    def _thing(self, stored: Mapping[str, Any]) -> Thing | None:
        if "mask" not in stored:
            return None
        (mask,) = decode_masks([stored["mask"]], f"an object of {self.source}")
        return Thing(mask.astype(bool), bool(stored.get("named", False)))

    def mask(self, method: str, scale: float) -> np.ndarray:
        """Masks bool [k, H, W] of a method at a multiple of Otsu's threshold.

        Raises:
            DataError: if the explanation was made without them.
            MissingInput: if its masks were made by another strategy.
        """
        strategy = self.info.get("strategy", OTSU)
        if strategy != OTSU:
            raise MissingInput(
                f"{self.source} holds masks by {strategy}, not at multiples of Otsu's threshold: make it again with "
                "threshold=otsu"
            )
        key = f"{method}@{scale:g}"
        if key not in self.masks:
            raise self.lacks(f"mask {key}", f" threshold.scale={scale:g}")
        return self.masks[key].astype(bool)

    def lacks(self, what: str, options: str = "") -> DataError:
        """The error that says what is missing and how to get it."""
        hint = f": make the samples again with `{self.command}{options}`" if self.command else ""
        return DataError(f"{self.source} has no {what}{hint}")


@dataclass(frozen=True)
class SampleSet:
    """All samples of one kind, made by one run."""

    folder: Path
    about: Mapping[str, Any]  # model, checkpoint, data, versions; "shown": the methods of Figures 2 to 5
    samples: list[StoredExplanation]
    further: list[StoredExplanation] = field(default_factory=list)  # which the gallery alone shows

    def part(self, name: str) -> list[StoredExplanation]:
        """Samples of one part ("questions", "logic")."""
        return [s for s in self.samples if s.info.get("part") == name]

    @property
    def shown(self) -> list[str]:
        """Rows of Figures 2 to 5: the methods asked for, or the paper's five, as far as every sample has them."""
        present = [set(s.methods) for s in self.samples]
        return in_order(m for m in self.about.get("shown") or PAPER_METHODS if all(m in p for p in present))

    @property
    def absent(self) -> list[str]:
        """The paper's methods that are not shown."""
        return [m for m in PAPER_METHODS if m not in self.shown]


def read_samples(outputs: Path, kind: str) -> SampleSet:
    """The samples of a kind ("detection", "vqa") below an outputs folder.

    Raises:
        MissingInput: if there are none; the message names the command that makes them.
        DataError: if they are damaged.
    """
    folder, command = outputs / "samples" / kind, SAMPLES[kind]
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        names = about.pop("items")
        samples = [StoredExplanation.read(folder / name, command) for name in names]
    except FileNotFoundError as error:
        raise MissingInput(f"no samples of kind {kind} below {outputs}: make them with `{command}`") from error
    except (ValueError, KeyError, AttributeError, TypeError, OSError, DataError) as error:
        raise DataError(f"samples in {folder} are damaged ({error}): make them again with `{command}`") from error
    further = [s for s in samples if s.info.get("part") == GALLERY_PART]
    return SampleSet(folder, about, [s for s in samples if s not in further], further)
