"""Train the embedded LXMERT on questions about freshly rendered scenes.

    python scripts/train_lxmert.py --minutes 80
    python scripts/train_lxmert.py --evaluate

Scenes, regions and questions all come from seeds; nothing is shared with the validation set. A pool of scenes is
rendered once and kept in the work folder; questions over it are drawn anew every round. Besides the answer, two
losses on the vision stream are trained and thrown away afterwards: each region's class, and its role in the
question. Checkpoints can be resumed, and each is a complete Hugging Face folder.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from make_questions import answers_of, scene_pool
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BertTokenizer, LxmertConfig, LxmertForQuestionAnswering

from hetexp.data.question_drafts import Scene, scenes_from_coco
from hetexp.data.question_templates import KINDS, plural, words
from hetexp.data.questions import answer_of, generate
from hetexp.data.region_features import iou
from hetexp.paths import asset

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


# --- tokenizer --------------------------------------------------------------------------------------------------


def make_tokenizer(names: Sequence[str], folder: Path, limit: int) -> None:
    """Write a word-level BERT tokenizer (vocab.txt, tokenizer.json, tokenizer_config.json) into the folder."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*specials, "?", ".", ",", *(w for w in words(list(names)) if w != "?")]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    ids = {word: i for i, word in enumerate(vocabulary)}
    BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=limit).save_pretrained(folder)


# --- data -------------------------------------------------------------------------------------------------------


def class_names(coco: dict[str, Any]) -> list[str]:
    """Return the class names of an annotation file, sorted."""
    return sorted(c["name"] for c in coco["categories"])


@dataclass
class Pool:
    """Scenes with their regions, N scenes of R regions each.

    features [N, R, D]; boxes [N, R, 4]; match [N, R], the thing a region shows or -1; best [N, R], whether no other
    region shows that thing better; label [N, R], its class, or the number of classes for background.
    """

    scenes: list[Scene]
    features: Tensor
    boxes: Tensor
    match: Tensor
    best: Tensor
    label: Tensor

    @classmethod
    def build(cls, coco: dict[str, Any], regions: Path) -> Pool:
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
            if not scene.things:
                continue
            overlap = iou(boxes[row], torch.tensor([t.box for t in scene.things]))
            closest, which = overlap.max(1)
            hit = closest >= MATCH
            best[row] = hit & (overlap.argmax(0)[which] == torch.arange(count))
            match[row, hit] = which[hit].to(torch.int8)
            classes = torch.tensor([number[t.name] for t in scene.things], dtype=torch.int16)
            label[row, hit] = classes[which[hit]]
        return cls(scenes, features, boxes, match, best, label)


class Encoder:
    """Turns questions and their scenes' regions into tensors."""

    def __init__(self, pool: Pool, folder: Path, answers: Sequence[str], names: Sequence[str]) -> None:
        self.pool = pool
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.ids = {word: i for i, word in enumerate(vocabulary)}
        self.answers = {answer: i for i, answer in enumerate(answers)}
        self.match, self.best = pool.match.tolist(), pool.best.tolist()
        number = {name: i for i, name in enumerate(names)}
        self.classes = [[number[t.name] for t in scene.things] for scene in pool.scenes]
        self.row = {scene.img_id: i for i, scene in enumerate(pool.scenes)}
        kinds = {t.name: t.kind for s in pool.scenes for t in s.things}
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
        named, things, kind = self.named(question["sent"]), self.pool.scenes[row].things, question["question_type"]
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


# --- model ------------------------------------------------------------------------------------------------------


class Trainee(nn.Module):
    """LXMERT with the two heads on its vision stream that only training uses."""

    def __init__(self, config: LxmertConfig, classes: int) -> None:
        super().__init__()
        self.model = LxmertForQuestionAnswering(config)
        self.region_class = nn.Linear(config.hidden_size, classes + 1)
        self.region_role = nn.Linear(config.hidden_size, 5)

    def forward(self, batch: dict[str, Tensor], auxiliary: float) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its parts."""
        inputs = {k: v for k, v in batch.items() if k not in TARGETS}
        out = self.model.lxmert(**inputs, output_hidden_states=True)
        scores = self.model.answer_head(out.pooled_output).float()
        # The answer never sees the last layer's vision output: what it can use are the two states before.
        early, late = out.vision_hidden_states[-3:-1]
        answer = functional.cross_entropy(scores, batch["answer"])
        classes = functional.cross_entropy(self.region_class(late).float().flatten(0, 1), batch["label"].flatten())
        role = torch.cat((self.region_role(early), self.region_role(late))).float()
        roles = functional.cross_entropy(role.flatten(0, 1), batch["role"].repeat(2, 1).flatten())
        right = (scores.argmax(1) == batch["answer"]).float().mean()
        parts = {
            "answer": float(answer.detach()),
            "class": float(classes.detach()),
            "role": float(roles.detach()),
            "right": float(right),
        }
        return answer + auxiliary * (classes + 2 * roles), parts


@torch.no_grad()
def accuracy(
    model: LxmertForQuestionAnswering, encoder: Encoder, questions: Sequence[dict[str, Any]], device: str
) -> dict[str, float]:
    """Return the share of right answers per question type and over all ("all")."""
    model.eval()
    hits: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for start in range(0, len(questions), 128):
        chosen = questions[start : start + 128]
        batch = encoder.batch(chosen, None, device)
        truth = batch["answer"]
        inputs = {k: v for k, v in batch.items() if k not in TARGETS}
        right = (model(**inputs).question_answering_score.argmax(1) == truth).tolist()
        for question, hit in zip(chosen, right, strict=True):
            for key in (question["question_type"], "all"):
                hits[key] += hit
                total[key] += 1
    model.train()
    return {key: round(hits[key] / total[key], 4) for key in total}


def batches(
    encoder: Encoder, names: Sequence[str], size: int, round_scenes: int, seed: int, step: int, device: str
) -> Iterator[dict[str, Tensor]]:
    """Yield training batches for ever: every round asks six new questions of each of some scenes, several times."""
    per_round = max(1, EPOCHS * 6 * round_scenes // size)
    number = step // per_round
    while True:
        rng = random.Random(f"{seed} round {number}")
        scenes = rng.sample(encoder.pool.scenes, min(round_scenes, len(encoder.pool.scenes)))
        asked = generate(scenes, names, 6 * len(scenes), seed=rng.randrange(2**31), tries=8, handful=12, shares=SHARES)
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


# --- checkpoints ------------------------------------------------------------------------------------------------


def save_state(trainee: Trainee, optimizer: torch.optim.Optimizer, path: Path, **progress: float) -> None:
    """Write weights, AdamW moments and progress into one safetensors file, whole or not at all."""
    tensors = {f"model.{k}": v.contiguous() for k, v in trainee.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v.clone() for k, v in state.items()}
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={k: repr(v) for k, v in progress.items()})
    part.replace(path)


def load_state(trainee: Trainee, optimizer: torch.optim.Optimizer, path: Path) -> dict[str, float]:
    """Restore what `save_state` wrote; returns the progress values."""
    tensors = load_file(path)
    trainee.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(path, "pt") as file:
        return {k: float(v) for k, v in (file.metadata() or {}).items()}


def save_model(model: LxmertForQuestionAnswering, answers: Sequence[str], folder: Path) -> None:
    """Write the Hugging Face folder's weights, config and answer list; files change one by one, each whole."""
    part = folder / ".part"
    model.save_pretrained(part)
    (part / "label2ans.json").write_text(json.dumps(list(answers), indent=0) + "\n", encoding="utf-8")
    for file in part.iterdir():
        file.replace(folder / file.name)
    part.rmdir()


# --- the run ----------------------------------------------------------------------------------------------------


def rate(progress: float, peak: float, warm: float = 0.03, decay: float = 0.3) -> float:
    """Return the learning rate at a share of the run: short rise, plateau, cosine fall over the last part."""
    if progress < warm:
        return peak * max(progress / warm, 0.02)
    if progress < 1 - decay:
        return peak
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 1 + decay) / decay))))


def validation(folder: Path, answers: Sequence[str]) -> tuple[Encoder, list[dict[str, Any]]]:
    """Return the embedded validation questions and what encodes them."""
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text(encoding="utf-8"))
    pool = Pool.build(coco, Path(asset("vqa")))
    questions = json.loads((Path(asset("vqa")) / "questions.json").read_text(encoding="utf-8"))
    return Encoder(pool, folder, answers, class_names(coco)), questions


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=80.0, help="training time, without the pool's rendering")
    parser.add_argument("--scenes", type=int, default=11200, help="rendered training scenes")
    parser.add_argument("--out", type=Path, default=Path(asset("lxmert")), help="Hugging Face folder to write")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_lxmert"), help="pool and resumable state")
    parser.add_argument("--detr", type=Path, default=Path(asset("detr")), help="DETR whose backbone gives features")
    parser.add_argument("--resume", action="store_true", help="go on from the work folder's state")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    if args.evaluate:
        trained = LxmertForQuestionAnswering.from_pretrained(args.out).to(device)
        encoder, asked = validation(args.out, json.loads((args.out / "label2ans.json").read_text(encoding="utf-8")))
        print(json.dumps(accuracy(trained, encoder, asked, device), indent=1))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    folder = scene_pool(args.scenes, args.seed, args.detr, args.work)
    coco = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    names, answers = class_names(coco), answers_of(coco)
    pool = Pool.build(coco, folder)
    config = LxmertConfig(
        vocab_size=0,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        l_layers=3,
        r_layers=2,
        x_layers=3,
        max_position_embeddings=64,
        visual_feat_dim=pool.features.shape[-1],
        num_qa_labels=len(answers),
        num_object_labels=len(names),
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.0,
    )
    make_tokenizer(names, args.out, config.max_position_embeddings)
    config.vocab_size = len(AutoTokenizer.from_pretrained(args.out))
    encoder = Encoder(pool, args.out, answers, names)
    held, questions = validation(args.out, answers)

    trainee = Trainee(config, len(names)).to(device).train()
    optimizer = torch.optim.AdamW(trainee.parameters(), args.rate, weight_decay=0.01, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    state = args.work / "state.safetensors"
    if args.resume and state.is_file():
        progress = load_state(trainee, optimizer, state)
        step, spent = int(progress["step"]), progress["spent"]
        print(f"resumed at step {step} after {spent / 60:.1f} minutes", flush=True)
    budget, started, saved = args.minutes * 60, time.monotonic() - spent, time.monotonic()
    log: Counter[str] = Counter()
    for batch in batches(encoder, names, args.batch, 4000, args.seed, step, device):
        spent = time.monotonic() - started
        for group in optimizer.param_groups:
            group["lr"] = rate(spent / budget, args.rate)
        with torch.autocast(device, torch.bfloat16):
            loss, parts = trainee(batch, auxiliary=1.0 if spent < 0.6 * budget else 0.5)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        step += 1
        log.update(parts)
        if step % 50 == 0:
            text = " ".join(f"{k} {v / 50:.3f}" for k, v in log.items())
            print(f"{spent / 60:6.1f} min step {step} {text}", flush=True)
            log.clear()
        if spent >= budget or time.monotonic() - saved > 180:
            print(f"{spent / 60:6.1f} min", accuracy(trainee.model, held, questions, device), flush=True)
            save_model(trainee.model, answers, args.out)
            save_state(trainee, optimizer, state, step=step, spent=spent)
            saved = time.monotonic()
        if spent >= budget:
            break


if __name__ == "__main__":
    main()
