"""Dataset formats by name. A new one is a file with an opener and a line in DATASETS.

An opener is called as ``opener(data, *, limit, seed)`` with the `data` configuration; it returns a DetectionData, a
VqaData or a SentenceData, after the format's kind. It is imported when it is first needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hetexp.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image
    from pycocotools.coco import COCO

    from hetexp.data.coco import SceneItem

Kind = Literal["detection", "vqa", "text"]


class DetectionData(Protocol):
    """What a detection experiment asks of a data set: images one by one, and annotations to score against."""

    @property
    def items(self) -> Sequence[SceneItem]:
        """The images of the experiment, in its order."""
        ...

    @property
    def coco(self) -> COCO:
        """The annotations as pycocotools' COCO object."""
        ...

    def load(self, item: SceneItem) -> Image.Image:
        """One image in RGB, of the size that its item states.

        Raises:
            ItemError: if it cannot be used; the experiment records it, leaves it out and goes on.
        """
        ...

    def path(self, item: SceneItem) -> Path:
        """Where the image lies."""
        ...

    def item_digest(self, item: SceneItem) -> str:
        """Hash of what `load` reads, as hex; stored relevance is computed again when it changes.

        Raises:
            ItemError: if it cannot be read.
        """
        ...

    def dataset_digest(self) -> str:
        """Hash of the annotations, as hex; names the data in results."""
        ...


@dataclass(frozen=True)
class DatasetFormat:
    """One dataset format.

    Attributes:
        kind: "detection" (opens a DetectionData), "vqa" (opens a VqaData) or "text" (opens a SentenceData).
        opener: ``module:function``.
        about: what is read, in a line.
    """

    kind: Kind
    opener: str
    about: str

    def open(self, data: Mapping[str, Any], *, limit: int | None, seed: int) -> Any:
        """Open a data set.

        Args:
            data: the `data` configuration.
            limit: how many items to take; None for all.
            seed: of whatever the format draws at random.

        Returns:
            DetectionData, VqaData or SentenceData, after `kind`.

        Raises:
            DataError: if the data are missing, damaged or not of this format.
        """
        module, _, function = self.opener.partition(":")
        return getattr(import_module(module), function)(data, limit=limit, seed=seed)


DATASETS: dict[str, DatasetFormat] = {
    "coco": DatasetFormat("detection", "hetexp.data.coco:open_coco", "images and annotations in COCO's format"),
    "lxmert": DatasetFormat("vqa", "hetexp.data.vqa_dataset:open_vqa", "LXMERT-form questions and region features"),
    "sentences": DatasetFormat("text", "hetexp.data.sentences:open_sentences", "texts, and what was written from them"),
}


def get_dataset(name: str, kind: Kind | None = None) -> DatasetFormat:
    """Look a dataset format up.

    Args:
        name: key of DATASETS.
        kind: what the experiment needs; None accepts every kind.

    Raises:
        ConfigError: if there is no such format of that kind; lists those there are.
    """
    known = {key: entry for key, entry in DATASETS.items() if kind in (None, entry.kind)}
    if name not in known:
        if name in DATASETS:
            raise ConfigError(
                f"data of format {name!r} are for {DATASETS[name].kind}, but this model needs {kind} data: choose "
                f"data=embedded_{kind}, or another data group whose format is {' or '.join(known)}"
            )
        raise ConfigError(f"unknown {f'{kind} ' if kind else ''}dataset format '{name}'. Available: {', '.join(known)}")
    return known[name]
