"""What `hetexp.explain` returns: relevance by method and source, with what was explained and how."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetexp.errors import DataError, InputError
from hetexp.evaluation.masks import finite_maps, otsu_thresholds, segment, to_uint8
from hetexp.files import atomic_folder
from hetexp.models.trace import Level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hetexp.reporting.samples import StoredExplanation

Relevance = dict[str, dict[str, Tensor]]  # method -> source -> [rows, *shape]

# What `save` derives from an explanation for `info.json`; the rest of that file is `details`.
_OWN_ENTRIES = (
    *("kind", "methods", "rows", "provenance", "detections", "targets", "scales", "upsample", "input_size", "otsu"),
    *("question", "tokens", "answers", "boxes"),
    *("explained", "token_texts", "special_tokens", "written", "without_relevance", "seconds"),
)
_LOGIT = re.compile(r"^logit\((.+)\)$", re.DOTALL)  # of a target in words: the class that it names


@dataclass(frozen=True)
class Row:
    """What one row of relevance explains.

    Attributes:
        target: y in words, e.g. "logit(zebra)" or "logit(yes) − logit(no)".
        label: the predicted class of the object query, or the predicted answer.
        score: its probability.
        query: the object query; None for a model with one row of logits.
        box: x1, y1, x2, y2 of the predicted box in units of the image's sides, clipped to it.
        item: which input of a batch.
        name: short name of the target where several explain the same prediction.
    """

    target: str
    label: str
    score: float
    query: int | None = None
    box: tuple[float, float, float, float] | None = None
    item: int = 0
    name: str = "logit"


@dataclass
class Explanation(Mapping[str, Mapping[str, Tensor]]):
    """Relevance of one or several inputs, a mapping method -> source -> tensor.

    Attributes:
        relevance: method -> source -> raw relevance [k, *shape]: [k, h, w] of an image grid, [k, N] of a sequence.
        rows: what each of the k rows explains.
        kind: "detection", "vqa", "text" (a model that writes) or "similarity" (of a text and a picture).
        provenance: model, checkpoint, methods with their parameters, versions.
        grids: per input and source the part of the shape that is not padding.
        extents: per input the height and width in input pixels that its image grid covers.
        image: the picture itself, if it was given.
        question: the question, if there is one.
        words: the question's tokens as text, special ones included.
        regions: boxes of the image's regions, x1, y1, x2, y2 in units of the image's sides [R, 4].
        answers: the most probable answers, each with "answer", "logit" and "probability".
        multiscale: method -> source -> raw relevance of all tokens [k, N], of sources that the model sees at several
            scales; `relevance` shows them on the finest grid.
        levels: per input the grids of those scales, in the order of their tokens; empty for other models.
        token_texts: source -> its tokens as text, of sources that are read as tokens (kinds "text" and "similarity").
        special_tokens: source -> positions of those that stand for no word.
        written: the source that the model writes itself, of which an explained token sees what stands before it.
        sound: what a model hears, energy of frequency bands over time [bands, frames], and its seconds.
        points: where the explained tokens sampled the image in the last layer: x and y in units of its sides, and the
            attention of the point [k, points, 3]; None for models that do not sample.
        details: further entries of `info.json` (an item's name, the answer held against the best one).
    """

    relevance: Relevance
    rows: list[Row]
    kind: str
    provenance: dict[str, Any] = field(default_factory=dict)
    grids: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    extents: list[tuple[int, int] | None] = field(default_factory=list)
    image: Image.Image | None = None
    question: str | None = None
    words: list[str] | None = None
    regions: Tensor | None = None
    answers: list[dict[str, Any]] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    multiscale: Relevance = field(default_factory=dict)
    levels: list[tuple[Level, ...]] = field(default_factory=list)
    token_texts: dict[str, list[str]] = field(default_factory=dict)
    special_tokens: dict[str, list[int]] = field(default_factory=dict)
    written: str | None = None
    sound: tuple[Tensor, float] | None = None
    points: Tensor | None = None

    # -- a mapping ---------------------------------------------------------------------------------------------

    def __getitem__(self, method: str) -> Mapping[str, Tensor]:
        return self.relevance[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.relevance)

    def __len__(self) -> int:
        return len(self.relevance)

    def __repr__(self) -> str:
        shown = ", ".join(f"{row.label} {row.score:.2f}" for row in self.rows[:5])
        more = ", ..." if len(self.rows) > 5 else ""
        return f"Explanation({self.kind}: {len(self.rows)} targets ({shown}{more}); methods {', '.join(self)})"

    # -- what the rows are -------------------------------------------------------------------------------------

    @property
    def targets(self) -> list[str]:
        """What y was, per row."""
        return [row.target for row in self.rows]

    @property
    def labels(self) -> list[str]:
        """Predicted class or answer, per row."""
        return [row.label for row in self.rows]

    @property
    def queries(self) -> list[int | None]:
        """Object query, per row; None for a model that has none."""
        return [row.query for row in self.rows]

    @property
    def scores(self) -> Tensor:
        """Probability of the predicted class or answer [k]."""
        return torch.tensor([row.score for row in self.rows])

    @property
    def boxes(self) -> Tensor | None:
        """Predicted boxes x1, y1, x2, y2 in units of the image's sides [k, 4]; None for a model without."""
        found = [row.box for row in self.rows if row.box is not None]
        return torch.tensor(found).reshape(-1, 4) if self.kind == "detection" else None

    def tokens(self, method: str, source: str) -> Tensor:
        """Raw relevance in the model's own order of tokens [k, N]."""
        scales = self.multiscale.get(method, {})
        return scales[source] if source in scales else self.relevance[method][source].flatten(1)

    def item(self, number: int) -> Explanation:
        """The rows of one input of a batch, their maps cut to what is not padding."""
        if not 0 <= number < len(self.grids):
            raise InputError(f"item {number} does not exist: this explanation has inputs 0 to {len(self.grids) - 1}")
        kept = [i for i, row in enumerate(self.rows) if row.item == number]
        grid = self.grids[number]
        cut = {
            method: {s: x[kept][(slice(None), *(slice(0, n) for n in grid[s]))] for s, x in streams.items()}
            for method, streams in self.relevance.items()
        }
        rows = [replace(self.rows[i], item=0) for i in kept]
        return replace(self, relevance=cut, rows=rows, grids=[grid], extents=[self.extents[number]])

    # -- masks -------------------------------------------------------------------------------------------------

    def masks(
        self, scale: float = 1.0, image_size: Sequence[int] | None = None, upsample: str = "reference"
    ) -> dict[str, Tensor]:
        """Each map binarised by Otsu's threshold times `scale` and upsampled to the image.

        Args:
            scale: multiple of Otsu's threshold.
            image_size: (height, width) of the masks; by default that of `image`, else of the network input.
            upsample: see `hetexp.evaluation.masks.segment`.

        Returns:
            method -> bool [k, H, W]; a map that is not finite gives an empty mask.

        Raises:
            InputError: for an explanation of several inputs (take `item(i)`), or one without an image grid.
        """
        one = self._one()
        extent = one._extent()
        size = image_size or (self.image.size[::-1] if self.image is not None else extent)
        return {
            method: segment(finite_maps(streams["image"])[0], scale, extent, size, upsample)
            for method, streams in one.relevance.items()
        }

    def _one(self) -> Explanation:
        """This explanation, which must be that of one input, without padding."""
        if len(self.grids) != 1:
            raise InputError(f"this explanation holds {len(self.grids)} inputs: take one of them, explanation.item(0)")
        return self.item(0)

    def _extent(self) -> tuple[int, int]:
        extent = self.extents[0]
        if extent is None:
            raise InputError("masks need relevance on an image grid, and this model's image tokens are regions")
        return extent

    # -- on disk and on screen ---------------------------------------------------------------------------------

    def stored(self, scales: Sequence[float] = (), upsample: str = "reference") -> StoredExplanation:
        """What a drawing needs, as plain arrays without padding; with masks at these multiples of Otsu's threshold.

        Raises:
            InputError: for an explanation of several inputs.
        """
        from hetexp.reporting.samples import StoredExplanation

        one = self._one()
        if self.kind == "detection":
            parts = one._detection(scales, upsample)
        else:
            parts = one._answer() if self.kind == "vqa" else one._sources()
        info, relevance, masks, levels = parts
        info |= {
            "kind": self.kind,
            "methods": list(self),
            "rows": [asdict(row) for row in one.rows],
            "provenance": self.provenance,
            **self.details,
        }
        picture = None if self.image is None else np.asarray(self.image.convert("RGB"))
        return StoredExplanation(picture, info, relevance, masks, levels)

    def _detection(self, scales: Sequence[float], upsample: str) -> tuple[dict[str, Any], Any, Any, Any]:
        extent = self._extent()
        height, width = extent if self.image is None else self.image.size[::-1]
        maps = {name: streams["image"].float().cpu() for name, streams in self.relevance.items()}
        masks = {}
        for scale in scales:
            for name, found in self.masks(scale, upsample=upsample).items():
                if bool(maps[name].isfinite().all()):
                    masks[f"{name}@{scale:g}"] = found.numpy()
        levels = {name: to_uint8(torch.where(m.isfinite(), m, 0)) for name, m in maps.items()}
        side = np.array([width, height, width, height])
        info = {
            "detections": [
                {"query": r.query, "label": r.label, "score": r.score, "box": (side * np.array(r.box)).tolist()}
                for r in self.rows
            ],
            "targets": self.targets,
            "scales": list(scales),
            "upsample": upsample,
            "input_size": list(extent),
            "otsu": {name: otsu_thresholds(u8).tolist() for name, u8 in levels.items()},
        }
        relevance = {name: m.numpy() for name, m in maps.items()}
        return info, relevance, masks, {name: u8.numpy() for name, u8 in levels.items()}

    def _answer(self) -> tuple[dict[str, Any], Any, Any, Any]:
        relevance = {
            f"{key}/{source}": values[i].float().cpu().numpy()
            for name, streams in self.relevance.items()
            for i, key in enumerate(_keys(name, self.rows))
            for source, values in streams.items()
        }
        width, height = (1, 1) if self.image is None else self.image.size
        regions = torch.zeros(0, 4) if self.regions is None else self.regions.float().cpu()
        info = {
            "question": self.question,
            "tokens": self.words,
            "answers": self.answers,
            "boxes": (regions * torch.tensor([width, height, width, height])).tolist(),
            "targets": _names(self.rows),
        }
        return info, relevance, {}, {}

    def _sources(self) -> tuple[dict[str, Any], Any, Any, Any]:
        relevance = {
            f"{name}/{source}": values.float().cpu().numpy()
            for name, streams in self.relevance.items()
            for source, values in streams.items()
        }
        info: dict[str, Any] = {
            "targets": self.targets,
            "explained": [_LOGIT.sub(r"\1", target) for target in self.targets],
            "token_texts": self.token_texts,
            "special_tokens": self.special_tokens,
            "written": self.written,
            "without_relevance": {
                source: [sorted(self._unseen(source, row, len(tokens))) for row in self.rows]
                for source, tokens in self.token_texts.items()
            },
        }
        if self.sound is not None:
            relevance["spectrogram"] = self.sound[0].float().cpu().numpy()
            info["seconds"] = self.sound[1]
        return info, relevance, {}, {}

    def _unseen(self, source: str, row: Row, count: int) -> set[int]:
        """Positions of a source that hold no relevance for a row: special tokens, and what is written from it on."""
        later = range(row.query, count) if source == self.written and row.query is not None else ()
        return {*self.special_tokens.get(source, ()), *later}

    def write(self, folder: Path, scales: Sequence[float] = (), upsample: str = "reference") -> None:
        """Write the files of `save` into an empty folder."""
        plain = self.stored(scales, upsample)
        if self.image is not None:
            self.image.convert("RGB").save(folder / "image.png")
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

    def save(self, folder: str | Path, scales: Sequence[float] = (), upsample: str = "reference") -> Path:
        """Write the explanation as a folder, whole or not at all; what lay there before is replaced.

        `info.json`, `relevance.safetensors` (float32, without padding) and, where there are any, `image.png`,
        `masks.json` ("<method>@<scale>", COCO's run lengths) and `levels.safetensors` (what Otsu's threshold sees,
        uint8 [k, h, w]).

        Args:
            scales: multiples of Otsu's threshold to store masks of.

        Raises:
            DataError: if the disk refuses; what lay there before is intact.
            InputError: for an explanation of several inputs.
        """
        target = Path(folder)
        try:
            with atomic_folder(target, replace=True) as temporary:
                self.write(temporary, scales, upsample)
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot write {target} ({error}): free some space or choose another folder") from error
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote.

        Raises:
            DataError: for a folder that is none of these, or damaged.
        """
        path = Path(folder)
        try:
            info = json.loads((path / "info.json").read_text(encoding="utf-8"))
            stored = load_file(path / "relevance.safetensors")
            rows = [Row(**{**r, "box": None if r["box"] is None else tuple(r["box"])}) for r in info["rows"]]
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
            return cls(
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

    def plot(self) -> Figure:
        """The methods beside each other, a row per detection, or the question with its words and regions.

        Raises:
            InputError: for an explanation of several inputs, or of no target.
            DataError: if it is not known where the image's regions lie.
        """
        from hetexp.reporting.figures.explanation import draw_explanation

        if not self.rows:
            raise InputError("nothing was explained, so nothing can be drawn: name a query, or lower score_threshold")
        return draw_explanation(self.stored())

    def plot_levels(self, method: str) -> Figure:
        """Each feature level of a multi-scale detector, and where its queries sampled the image in the last layer.

        Args:
            method: whose relevance is shown.

        Raises:
            InputError: for several inputs, no target, no image, a model of one level, or a method that is not there.
        """
        from hetexp.reporting.figures.levels import draw_levels

        one = self._one()
        if not self.levels or not self.levels[0] or self.image is None or not self.rows:
            raise InputError(
                "feature levels are drawn of an image and a detector that samples several, such as deformable_detr; "
                f"this explanation of {self.provenance.get('model')} has none: leave levels out"
            )
        if method not in self.multiscale:
            raise InputError(f"method {method!r} is not in this explanation: it holds {', '.join(self)}")
        sizes = [math.prod(level.shape) for level in self.levels[0]]
        parts = self.multiscale[method]["image"].float().cpu().split(sizes, 1)
        maps = [
            part.reshape(-1, *level.shape)[:, : level.valid[0], : level.valid[1]].numpy()
            for part, level in zip(parts, self.levels[0], strict=True)
        ]
        points = None if self.points is None else self.points.float().cpu().numpy()
        return draw_levels(one.stored(), method, maps, points)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head = "<tr><th>target</th><th>prediction</th><th>p</th></tr>"
        body = "".join(
            f"<tr><td>{html.escape(r.target)}</td><td>{html.escape(r.label)}</td><td>{r.score:.3f}</td></tr>"
            for r in self.rows
        )
        return f"<table>{head}{body}</table>{self._picture()}"

    def _picture(self) -> str:
        from matplotlib import pyplot as plt

        if len(self.grids) != 1 or not self.rows:
            return ""
        try:
            figure = self.plot()
        except DataError:  # it is not known where the regions lie: the table has to do
            return ""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=110)
        plt.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return f'<img alt="relevance by method" src="data:image/png;base64,{data}">'


def _names(rows: Sequence[Row]) -> list[str]:
    """A distinct name for each of the rows that explain one prediction: its own, or else its target in words."""
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        names = [row.target for row in rows]
    return [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _keys(method: str, rows: Sequence[Row]) -> list[str]:
    """What relevance of each row is stored under: the method's name, and for further rows theirs besides."""
    return [method if i == 0 else f"{method}:{name}" for i, name in enumerate(_names(rows))]


def _rows_by_source(stored: Mapping[str, Tensor], methods: Sequence[str], rows: Sequence[Row]) -> Relevance:
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
