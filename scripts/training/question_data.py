"""Training data of the embedded question-answering models: questions about a pool of scenes, as batches of tensors."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertTokenizer

from hetexp.data.regions.features import iou
from hetexp.data.synthetic.candidates import AnnotatedScene, scenes_from_coco
from hetexp.data.synthetic.question_templates import KINDS, plural, words
from hetexp.data.synthetic.questions import answer_of, generate

# Asked more often in training than in the validation set: what takes longest to learn.
SHARES = {
    "exist": 0.06,
    "and": 0.06,
    "or": 0.04,
    "negation": 0.04,
    "count": 0.32,
    "what_side": 0.10,
    "relation": 0.12,
    "color": 0.04,
    "next_to": 0.22,
}
EPOCHS = 3  # times a round's questions are used, each time with other words and regions left out: drawing them is slow
TARGETS = ("answer", "label", "role")  # what a batch holds besides the model's inputs
MIRRORED = ({"left": "right", "right": "left"}, {"above": "below", "below": "above"})  # words, by axis
MATCH = 0.5  # intersection over union from which a region counts as showing an object


def make_tokenizer(names: Sequence[str], folder: Path, limit: int) -> None:
    """Write a word-level BERT tokenizer (vocab.txt, tokenizer.json, tokenizer_config.json) into the folder."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*specials, "?", ".", ",", *(w for w in words(list(names)) if w != "?")]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    ids = {word: i for i, word in enumerate(vocabulary)}
    BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=limit).save_pretrained(folder)


def class_names(coco: dict[str, Any]) -> list[str]:
    """Return the class names of an annotation file, sorted."""
    return sorted(c["name"] for c in coco["categories"])


@dataclass
class ScenePool:
    """Scenes with their regions, N scenes of R regions each.

    Attributes:
        scenes: the N annotated scenes.
        features: [N, R, D].
        boxes: [N, R, 4], x1, y1, x2, y2 in units of the image's sides.
        match: [N, R], the object that a region shows, or -1.
        best: [N, R], whether no other region shows that object better.
        label: [N, R], the object's class, or the number of classes for background.
    """

    scenes: list[AnnotatedScene]
    features: Tensor
    boxes: Tensor
    match: Tensor
    best: Tensor
    label: Tensor

    @classmethod
    def build(cls, coco: dict[str, Any], regions: Path) -> ScenePool:
        """Read the regions.safetensors and regions.json of a folder, and match them with the annotations."""
        scenes, names = scenes_from_coco(coco), class_names(coco)
        tensors = load_file(regions / "regions.safetensors")
        listed = json.loads((regions / "regions.json").read_text(encoding="utf-8"))["image_ids"]
        index = {image: i for i, image in enumerate(listed)}
        rows = torch.tensor([index[s.img_id] for s in scenes])
        count = int(tensors["offsets"][1])  # every image has as many
        features = tensors["features"].view(len(listed), count, -1)[rows]
        boxes = tensors["boxes"].view(len(listed), count, 4)[rows]
        match = torch.full((len(scenes), count), -1, dtype=torch.int8)
        best = torch.zeros((len(scenes), count), dtype=torch.bool)
        label = torch.full((len(scenes), count), len(names), dtype=torch.int16)
        number = {name: i for i, name in enumerate(names)}
        for row, scene in enumerate(scenes):
            if not scene.objects:
                continue
            overlap = iou(boxes[row], torch.tensor([t.box for t in scene.objects]))
            closest, which = overlap.max(1)
            hit = closest >= MATCH
            best[row] = hit & (overlap.argmax(0)[which] == torch.arange(count))
            match[row, hit] = which[hit].to(torch.int8)
            classes = torch.tensor([number[t.name] for t in scene.objects], dtype=torch.int16)
            label[row, hit] = classes[which[hit]]
        return cls(scenes, features, boxes, match, best, label)


class Encoder:
    """Turns questions and their scenes' regions into tensors."""

    def __init__(self, pool: ScenePool, folder: Path, answers: Sequence[str], names: Sequence[str]) -> None:
        self.pool = pool
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.ids = {word: i for i, word in enumerate(vocabulary)}
        self.answers = {answer: i for i, answer in enumerate(answers)}
        self.match, self.best = pool.match.tolist(), pool.best.tolist()
        number = {name: i for i, name in enumerate(names)}
        self.classes = [[number[t.name] for t in scene.objects] for scene in pool.scenes]
        self.row = {scene.img_id: i for i, scene in enumerate(pool.scenes)}
        kinds = {t.name: t.kind for s in pool.scenes for t in s.objects}
        self.forms: list[set[str]] = []
        for name in names:
            of_kind = {k for k, members in KINDS.items() if not members or kinds.get(name) in members}
            self.forms.append({name, plural(name)} | of_kind | {plural(k) for k in of_kind})

    @functools.lru_cache(maxsize=65536)  # noqa: B019 - one encoder lives as long as the run
    def named(self, sentence: str) -> list[int]:
        """Return per class [classes + 1] 0 where the sentence does not name it, else 1; 2 for a second noun."""
        text = " " + sentence.replace("?", " ") + " "
        first = [min((text.find(f" {f} ") for f in forms if f" {f} " in text), default=-1) for forms in self.forms]
        start = min((place for place in first if place >= 0), default=-1)
        return [0 if place < 0 else 1 if place == start else 2 for place in first] + [0]

    def roles(self, question: dict[str, Any], row: int, mirrored: tuple[bool, bool] = (False, False)) -> list[int]:
        """Return what each region [R] is to the question: 0 nothing; 1 or 2, its first or second noun.

        Where the question asks for one more object (on the left, next to another) that is 2. Where it asks for a
        number, 1 is one region of each object and 2 are the others that show it. Where it compares places, 2 is added
        to the noun farther right, or farther down.
        """
        named, things, kind = self.named(question["sent"]), self.pool.scenes[row].objects, question["question_type"]
        match, best = self.match[row], self.best[row]
        role = [0 if m < 0 else named[self.classes[row][m]] for m in match]
        if kind == "count":
            return [2 if r and not b else r for r, b in zip(role, best, strict=True)]
        if kind == "relation":
            i, j = (i for i, t in enumerate(things) if t.id in question["objects"])
            axis = 0 if {"left", "right"} & set(question["sent"].split()) else 1
            later = i if (things[i].centre[axis] > things[j].centre[axis]) != mirrored[axis] else j
            return [r + 2 if m == later else r for r, m in zip(role, match, strict=True)]
        if kind in ("what_side", "next_to"):
            deciding = {i for i, t in enumerate(things) if t.id in question["objects"]}
            keep = 1 if kind == "next_to" else 0  # there the named object is one of the deciding
            return [2 if m in deciding and not (keep and r) else r for r, m in zip(role, match, strict=True)]
        return role

    def tokens(self, sentence: str) -> list[int]:
        pieces = re.findall(r"\w+|[^\w\s]", sentence)
        unknown = self.ids["[UNK]"]
        return [self.ids["[CLS]"], *(self.ids.get(p, unknown) for p in pieces), self.ids["[SEP]"]]

    def thinned(self, question: dict[str, Any], rng: random.Random) -> str:
        """Return the sentence without some of the words that do not decide its answer."""
        sentence, kept, deciding = question["sent"], [], {tuple(span) for span in question["words"]}
        for word in re.finditer(r"\w+|[^\w\s]", sentence):
            if word.span() in deciding or rng.random() > 0.3:
                kept.append(word.group())
        return " ".join(kept)

    def batch(self, questions: Sequence[dict[str, Any]], rng: random.Random | None, device: str) -> dict[str, Tensor]:
        """Return model inputs and targets; with `rng` words and background are left out, scenes mirrored and zoomed."""
        sentences = [self.thinned(q, rng) if rng is not None and rng.random() < 0.15 else q["sent"] for q in questions]
        mirrored = [(False, False)] * len(questions)
        if rng is not None:
            mirrored = [(rng.random() < 0.5, rng.random() < 0.5) for _ in questions]
            sentences = [mirror_words(s, m) for s, m in zip(sentences, mirrored, strict=True)]
        ids = [torch.tensor(self.tokens(s)) for s in sentences]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        rows = torch.tensor([self.row[q["img_id"]] for q in questions])
        label = self.pool.label[rows].long()
        order = torch.arange(label.shape[1]).expand_as(label)
        if rng is not None:
            # Some background goes, in random order; what shows an object always stays, so the answer stays true.
            noise = torch.rand(label.shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
            order = (noise + (self.pool.match[rows] >= 0)).argsort(1, descending=True)
            order = order[:, : rng.choice((18, 22, 36))]
        label = label.gather(1, order)
        roles = torch.tensor([self.roles(q, r, m) for q, r, m in zip(questions, rows.tolist(), mirrored, strict=True)])
        boxes = self.pool.boxes[rows[:, None], order].float()
        if rng is not None:
            boxes = zoomed(mirror_boxes(boxes, torch.tensor(mirrored)), rng)
        tensors = {
            "input_ids": padded,
            "attention_mask": (padded != 0).float(),
            "token_type_ids": torch.zeros_like(padded),
            "visual_feats": self.pool.features[rows[:, None], order].float(),
            "visual_pos": boxes,
            "answer": torch.tensor([self.answers[answer_of(q)] for q in questions]),
            "label": label,
            "role": roles.gather(1, order),
        }
        return {key: value.to(device) for key, value in tensors.items()}


def mirror_words(sentence: str, mirrored: tuple[bool, bool]) -> str:
    """The sentence that has the same answer for the mirrored scene."""
    swapped = {k: v for words, flip in zip(MIRRORED, mirrored, strict=True) if flip for k, v in words.items()}
    return re.sub(r"\w+", lambda word: swapped.get(word[0], word[0]), sentence)


def mirror_boxes(boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Boxes [B, R, 4] (x1, y1, x2, y2) mirrored along the axes that `mirrored` [B, 2] marks."""
    low, high = boxes.split(2, -1)
    flip = mirrored[:, None]
    return torch.cat((torch.where(flip, 1 - high, low), torch.where(flip, 1 - low, high)), -1)


def zoomed(boxes: Tensor, rng: random.Random) -> Tensor:
    """Half of the scenes [B, R, 4] shrunk and shifted within the image: places change, their relations do not."""
    scale = torch.tensor([rng.uniform(0.7, 1.0) if rng.random() < 0.5 else 1.0 for _ in boxes])
    shift = torch.tensor([[rng.random(), rng.random()] for _ in boxes]) * (1 - scale)[:, None]
    return boxes * scale[:, None, None] + shift.repeat(1, 2)[:, None]


def batches(
    encoder: Encoder, names: Sequence[str], size: int, round_scenes: int, seed: int, step: int, device: str
) -> Iterator[dict[str, Tensor]]:
    """Yield training batches for ever: every round asks six new questions of each of some scenes, several times."""
    per_round = max(1, EPOCHS * 6 * round_scenes // size)
    number = step // per_round
    while True:
        rng = random.Random(f"{seed} round {number}")
        scenes = rng.sample(encoder.pool.scenes, min(round_scenes, len(encoder.pool.scenes)))
        asked = generate(
            scenes, names, 6 * len(scenes), seed=rng.randrange(2**31), tries=8, n_candidates=12, shares=SHARES
        )
        for _ in range(EPOCHS):
            part = evened(asked, rng)
            for start in range(0, len(part) - size + 1, size):
                yield encoder.batch(part[start : start + size], rng, device)
        number += 1


def evened(questions: Sequence[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """The questions in random order, as many as before, with all counts answered about equally often.

    Few scenes hold three or four of a kind, so these would hardly be learned.
    """
    of_answer: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        if question["question_type"] == "count":
            of_answer.setdefault(answer_of(question), []).append(question)
    each = sum(map(len, of_answer.values())) // max(1, len(of_answer))
    out = [q for q in questions if q["question_type"] != "count"]
    for group in of_answer.values():
        out += rng.choices(group, k=each)
    rng.shuffle(out)
    return out
