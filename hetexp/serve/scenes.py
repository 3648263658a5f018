"""Pictures to begin with: scenes of the configured data, the chosen ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL.Image import Image

from hetexp.data.registry import DetectionData
from hetexp.data.vqa_dataset import VqaData
from hetexp.experiments.engine.samples import chosen_items
from hetexp.experiments.engine.session import Session
from hetexp.experiments.vqa.explain import find_image

MOST_SCENES = 12
MOST_QUESTIONS = 6  # suggested for a scene


@dataclass(frozen=True)
class Scene:
    """A picture of the data.

    Attributes:
        name: its image id, under which a region file knows it.
        questions: asked about it in the data.
        load: reads it in RGB.
    """

    name: str
    questions: tuple[str, ...]
    load: Callable[[], Image]


def scenes_of(session: Session) -> list[Scene]:
    """The first scenes of the data that the session is configured with; none where its root is not set."""
    if not session.cfg.data.root:
        return []
    found = _of_questions(session) if session.kind == "vqa" else _of_detection(session)
    return list(islice(found, MOST_SCENES))


def _of_detection(session: Session) -> Iterator[Scene]:
    data: DetectionData = session.data
    chosen = chosen_items(session.cfg.data.name).get("detection", [])
    for item in sorted(data.items, key=lambda item: (item.image_id not in chosen, item.image_id)):
        yield Scene(str(item.image_id), (), lambda item=item: data.load(item))  # type: ignore[misc]


def _of_questions(session: Session) -> Iterator[Scene]:
    data: VqaData = session.data
    cfg: Any = session.cfg.data
    chosen = chosen_items(cfg.name)
    asked: dict[str, list[str]] = {}
    for entry in (*chosen.get("questions", []), *chosen.get("logic", [])):
        asked.setdefault(str(entry["image"]), []).append(entry["question"])
    for question in data.questions:
        asked.setdefault(question.img_id, []).append(question.sent)
    folder = Path(cfg.root, cfg.images)
    for name, questions in asked.items():
        suggested = tuple(dict.fromkeys(questions))[:MOST_QUESTIONS]
        yield Scene(name, suggested, lambda name=name: find_image(folder, name))  # type: ignore[misc]
