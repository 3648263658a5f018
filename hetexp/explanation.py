"""What `hetexp.explain` returns: relevance by method and source, with what was explained and how."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from hetexp.errors import DataError, InputError
from hetexp.evaluation.masks import finite_maps, segment
from hetexp.evaluation.thresholds.registry import get_strategy
from hetexp.evaluation.thresholds.strategy import Strategy
from hetexp.explanation_files import MaskSettings, read_files, to_stored, write_files
from hetexp.files import atomic_folder
from hetexp.models.trace import Level

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hetexp.reporting.samples import StoredExplanation

NO_MASKS = MaskSettings()

Relevance = dict[str, dict[str, Tensor]]  # method -> source -> [rows, *shape]


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
        return replace(
            self,
            relevance=cut,
            rows=[replace(self.rows[i], item=0) for i in kept],
            grids=[grid],
            extents=[self.extents[number]],
            multiscale={m: {s: x[kept] for s, x in by.items()} for m, by in self.multiscale.items()},
            levels=self.levels[number : number + 1],
            points=None if self.points is None else self.points[kept],
        )

    # -- masks -------------------------------------------------------------------------------------------------

    def masks(
        self,
        scale: float = 1.0,
        image_size: Sequence[int] | None = None,
        upsample: str = "reference",
        tie: str = "background",
        strategy: str | Strategy = "otsu",
    ) -> dict[str, Tensor]:
        """Each map binarised by its threshold times `scale` and upsampled to the image.

        Args:
            scale: multiple of the threshold.
            image_size: (height, width) of the masks; by default that of `image`, else of the network input.
            upsample: see `hetexp.evaluation.masks.segment`.
            tie: likewise.
            strategy: what gives maps their thresholds, a name or what `hetexp.masks.get_strategy` returns.

        Returns:
            method -> bool [k, H, W]; a map that is not finite gives an empty mask.

        Raises:
            InputError: for an explanation of several inputs (take `item(i)`), or one without an image grid; and for a
                strategy that reads the ground truth, or a scale that it has no use for.
            ConfigError: for an unknown strategy.
        """
        binarised = get_strategy(strategy) if isinstance(strategy, str) else strategy
        one = self._one()
        extent = one._extent()
        size = image_size or (self.image.size[::-1] if self.image is not None else extent)
        return {
            method: segment(finite_maps(streams["image"])[0], scale, extent, size, upsample, None, tie, binarised)
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

    def stored(self, masks: MaskSettings = NO_MASKS) -> StoredExplanation:
        """What a drawing needs, as plain arrays without padding, with these masks.

        Raises:
            InputError: for an explanation of several inputs.
        """
        return to_stored(self._one(), masks)

    def write(self, folder: Path, masks: MaskSettings = NO_MASKS) -> None:
        """Write the files of `save` into an empty folder."""
        write_files(self.stored(masks), self.image, folder)

    def save(
        self,
        folder: str | Path,
        scales: Sequence[float] = (),
        upsample: str = "reference",
        tie: str = "background",
        strategy: str | Strategy = "otsu",
    ) -> Path:
        """Write the explanation as a folder, whole or not at all; what lay there before is replaced.

        `info.json`, `relevance.safetensors` (float32, without padding) and, where there are any, `image.png`,
        `masks.json` ("<method>@<scale>", COCO's run lengths) and `levels.safetensors` (what Otsu's threshold sees,
        uint8 [k, h, w]).

        Args:
            scales: multiples of the threshold to store masks of.
            upsample: of these, see `masks`.
            tie: likewise.
            strategy: likewise.

        Raises:
            DataError: if the disk refuses; what lay there before is intact.
            InputError: for an explanation of several inputs, and as `masks` does.
            ConfigError: for an unknown strategy.
        """
        target = Path(folder)
        binarised = get_strategy(strategy) if isinstance(strategy, str) else strategy
        masks = MaskSettings(scales, upsample, tie, binarised)
        try:
            with atomic_folder(target, replace=True) as temporary:
                self.write(temporary, masks)
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot write {target} ({error}): free some space or choose another folder") from error
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote.

        Raises:
            DataError: for a folder that is none of these, or damaged.
        """
        return read_files(Path(folder), cls, Row)

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
