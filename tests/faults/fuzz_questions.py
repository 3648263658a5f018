"""Damaged question files, answered and perturbed by a tiny LXMERT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutate import mutated_json
from toy_run import write_scenes
from transformers import BertTokenizer

from hetexp import config
from hetexp.data.regions import Regions, write_compact
from hetexp.experiments.engine.session import Session, open_session
from hetexp.experiments.vqa.run import run

GOLDEN = Path(__file__).parents[1] / "golden" / "lxmert" / "model"
SENTENCES = ("is there a zebra", "what color is the umbrella", "how many birds are there", "is there a dog and a cat")
IMAGES, QUESTIONS, ANSWERS, REGIONS = 3, 6, 15, 12
FILES = ("questions", "answers", "annotations")


class Questions:
    """Question files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "vqa"
        self.file = self.root / "questions.json"
        _write_model(folder / "model")
        write_scenes(self.root, IMAGES)
        self.content = _write_questions(self.root)
        self.adapter = self._session().adapter

    def _session(self) -> Session:
        overrides = ["model=lxmert", f"data.root={self.root}", "data.regions=regions.safetensors", "data.images=images"]
        overrides += [f"data.{name}={name}.json" for name in FILES]
        overrides += [f"model.checkpoint={self.folder / 'model'}", "method=gae", "chunk_size=1", "batch_size=1"]
        overrides += ["progress=false", "threads=1", "bootstrap=0", f"paths.outputs={self.folder / 'outputs'}"]
        return open_session(config.composed(*overrides), self.folder / "run")

    def number(self) -> dict[tuple[str, str], float | None]:
        """All metrics of a run with the model that is already loaded."""
        session = self._session()
        session.__dict__["adapter"] = self.adapter  # a cached property
        return {(result.panel, result.metric): result.value for result in run(session)}

    def damage(self, rng: Random) -> bytes:
        """Write a damaged question file."""
        content = mutated_json(rng, self.content)
        self.file.write_bytes(content)
        return content

    def confirmed(self, content: bytes, number: Any) -> bool:
        """Whether the file is still one that LXMERT's form allows: it then asks something else."""
        items = json.loads(content)
        return all(map(_sound, items)) and len({str(item["question_id"]) for item in items}) == len(items)


def _sound(item: dict[str, Any]) -> bool:
    label, words = item["label"], item.get("words", [])
    return (
        type(item["question_id"]) in (int, str)
        and type(item["img_id"]) in (int, str)
        and type(item["sent"]) is str
        and all(type(score) in (int, float) and 0 <= score <= 1 for score in label.values())
        and all(0 <= start < end <= len(item["sent"]) for start, end in words)
        and all(type(number) is int for number in item.get("objects", []))
        and all(type(item.get(key, "")) is str or item[key] is None for key in ("question_type", "answer_type"))
        and all(type(answer) is str for answer in item.get("answers", []))
    )


def _write_model(folder: Path) -> None:
    shutil.copytree(GOLDEN, folder)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *words]
    BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}, do_lower_case=True).save_pretrained(folder)


def _write_questions(root: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    answers = [f"a{i}" for i in range(ANSWERS)]
    items: list[dict[str, Any]] = [
        {
            "question_id": i,
            "img_id": f"{i % IMAGES:03d}",
            "sent": SENTENCES[i % 4],
            "question_type": ("exist", "color")[i % 2],
            "answer_type": "other",
            "label": {answers[(3 * i + k) % ANSWERS]: (0.3, 0.6, 1.0)[k % 3] for k in range(6)},
            "words": [[len(SENTENCES[i % 4]) - 5, len(SENTENCES[i % 4])]],
            "objects": [i % IMAGES + 1] if i % 3 else [],
        }
        for i in range(QUESTIONS)
    ]
    (root / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    (root / "questions.json").write_text(json.dumps(items), encoding="utf-8")
    regions = []
    for i in range(IMAGES):
        corners = np.sort(rng.random((REGIONS, 2, 2)), axis=1).astype(np.float32)
        boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1)
        regions.append((f"{i:03d}", Regions(rng.normal(size=(REGIONS, 24)).astype(np.float32), boxes, 128, 128)))
    write_compact(root / "regions.safetensors", regions)
    return items
