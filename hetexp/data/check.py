"""Read a data set of any registered format through and say everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetexp.data.coco import CocoScenes, ItemError
from hetexp.data.problems import DamagedFile
from hetexp.data.registry import DetectionData, get_dataset
from hetexp.data.vqa import outside_vocabulary
from hetexp.data.vqa_dataset import VqaData
from hetexp.errors import DataError


@dataclass(frozen=True)
class DataReport:
    """What a data set holds.

    Attributes:
        summary: how many items were read.
        problems: what is wrong, a line each; empty if nothing is.
    """

    summary: str
    problems: list[str] = field(default_factory=list)


def check_dataset(data: Mapping[str, Any], *, limit: int | None = None, seed: int = 0) -> DataReport:
    """Open a data set as a run would, and load every item.

    Args:
        data: the `data` configuration.
        limit: how many items to read; None for all.
        seed: of the draw, where the format draws.

    Raises:
        ConfigError: if there is no such format.
    """
    fitting = get_dataset(data["format"])
    try:
        opened = fitting.open(data, limit=limit, seed=seed)
    except DamagedFile as error:
        return DataReport("no item could be read", error.problems)
    except DataError as error:
        return DataReport("no item could be read", [str(error)])
    if fitting.kind == "detection":
        return _images(opened)
    if fitting.kind == "text":
        return DataReport(f"{len(opened.sentences)} sentences")
    return _questions(opened, data)


def _images(data: DetectionData) -> DataReport:
    problems = []
    for item in data.items:
        try:
            data.load(item)
        except ItemError as error:
            problems.append(str(error))
    try:
        annotations = len(data.coco.anns)
    except DataError as error:
        return DataReport(f"{len(data.items)} images", [*problems, str(error)])
    categories = len(data.coco.cats)
    return DataReport(f"{len(data.items)} images, {annotations} annotations of {categories} categories", problems)


def _questions(data: VqaData, files: Mapping[str, Any]) -> DataReport:
    problems = []
    for img_id in dict.fromkeys(question.img_id for question in data.questions):
        try:
            if data.regions is not None:
                data.regions.regions(img_id)
        except ItemError as error:
            problems.append(str(error))
    problems += _deciding_objects(data, files)
    outside = outside_vocabulary(data.questions, data.answers)
    unanswerable = f", {outside} of them without an answer among the {len(data.answers)}" if outside else ""
    return DataReport(f"{len(data.questions)} questions{unanswerable}", problems)


def _deciding_objects(data: VqaData, files: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the annotations behind the ground-truth measures, where there are any."""
    if files.get("annotations") is None:
        return
    root = Path(files["root"])
    try:
        scenes = CocoScenes(root / files["images"], root / files["annotations"])
    except DamagedFile as error:
        yield from error.problems
        return
    except DataError as error:
        yield str(error)
        return
    for question in data.questions:
        if question.extra.get("objects"):
            try:
                scenes.union(question.extra["objects"], question.img_id)
            except DataError as error:
                yield f"question {question.question_id}: {error}"
