"""Train an embedded question-answering model on questions about freshly rendered scenes.

    python scripts/training/train_answerer.py lxmert --minutes 80
    python scripts/training/train_answerer.py visualbert --evaluate

Scenes, regions and questions all come from seeds; nothing is shared with the validation set. A pool of scenes is
rendered once and kept in the work folder; questions over it are drawn anew every round. Besides the answer, up to two
losses on the regions' states are trained and thrown away afterwards: each region's class, and its role in the
question. Checkpoints can be resumed, and each is a complete Hugging Face folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from answerers import ARCHITECTURES, Architecture
from checkpoints import load_state, save_state, updated_folder
from make_questions import answers_of, scene_pool
from question_data import Encoder, ScenePool, batches, class_names, make_tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from hetexp.data.synthetic.question_templates import plural
from hetexp.paths import asset

LONGEST = 64  # tokens of a question

# --- model ------------------------------------------------------------------------------------------------------


class WordClasses(nn.Module):
    """Reads a region's class off with the embeddings of the words for the classes.

    Args:
        words: token ids [F, classes] of F forms of the classes' names.
        width: of the states.
    """

    words: Tensor

    def __init__(self, words: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("words", words)
        self.background = nn.Parameter(torch.zeros(1, width))

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        """Class logits [F, N, classes + 1], background last, of states [N, d] by word embeddings [vocabulary, d]."""
        background = self.background.expand(len(self.words), 1, -1)
        return states @ torch.cat((embedding[self.words], background), 1).mT


class Trainee(nn.Module):
    """A question-answering model with the two heads on its regions' states that only training uses.

    Args:
        architecture: of the model.
        config: the model's configuration.
        words: token ids [F, classes] of F forms of the classes' names.
        role_loss: weight of the loss on roles relative to that on classes; 0 leaves it out.
    """

    def __init__(self, architecture: Architecture, config: PreTrainedConfig, words: Tensor, role_loss: float) -> None:
        super().__init__()
        self.architecture, self.role_loss = architecture, role_loss
        self.model = architecture.untrained(config)
        width, classes = config.hidden_size, words.shape[1]
        self.region_class = (
            WordClasses(words, width) if architecture.classes_are_words else nn.Linear(width, classes + 1)
        )
        self.region_role = nn.Linear(width, 5)

    def forward(self, batch: dict[str, Tensor], auxiliary: float) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its parts."""
        logits, states = self.architecture.answer(self.model, batch)
        scores = logits.float()
        # The answer never sees the last layer's regions: what it can use are the two states before.
        early, late = states[-3:-1]
        answer = functional.cross_entropy(scores, batch["answer"])
        classes = self._class_loss(states[1], late, batch["label"].flatten())
        parts = {"answer": answer, "class": classes}
        loss = answer + auxiliary * classes
        if self.role_loss:
            role = torch.cat((self.region_role(early), self.region_role(late))).float()
            parts["role"] = functional.cross_entropy(role.flatten(0, 1), batch["role"].repeat(2, 1).flatten())
            loss = loss + auxiliary * self.role_loss * parts["role"]
        parts["right"] = (scores.argmax(1) == batch["answer"]).float().mean()
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    def _class_loss(self, first: Tensor, late: Tensor, label: Tensor) -> Tensor:
        if isinstance(self.region_class, WordClasses):
            logits = self.region_class(first.flatten(0, 1), self.model.get_input_embeddings().weight)
            return functional.cross_entropy(logits.float().flatten(0, 1), label.repeat(len(logits)))
        return functional.cross_entropy(self.region_class(late).float().flatten(0, 1), label)


@torch.no_grad()
def accuracy(
    architecture: Architecture,
    model: PreTrainedModel,
    encoder: Encoder,
    questions: Sequence[dict[str, Any]],
    device: str,
) -> dict[str, float]:
    """Return the share of right answers per question type and over all ("all")."""
    model.eval()
    hits: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for start in range(0, len(questions), 128):
        chosen = questions[start : start + 128]
        batch = encoder.batch(chosen, None, device)
        right = (architecture.answer(model, batch)[0].argmax(1) == batch["answer"]).tolist()
        for question, hit in zip(chosen, right, strict=True):
            for key in (question["question_type"], "all"):
                hits[key] += hit
                total[key] += 1
    model.train()
    return {key: round(hits[key] / total[key], 4) for key in total}


def save_model(model: PreTrainedModel, answers: Sequence[str], folder: Path) -> None:
    """Write the Hugging Face folder's weights, config and answer list; what else is there stays."""
    with updated_folder(folder) as new:
        model.save_pretrained(new)
        (new / "label2ans.json").write_text(json.dumps(list(answers), indent=0) + "\n", encoding="utf-8")


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
    pool = ScenePool.build(coco, Path(asset("vqa")))
    questions = json.loads((Path(asset("vqa")) / "questions.json").read_text(encoding="utf-8"))
    return Encoder(pool, folder, answers, class_names(coco)), questions


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=tuple(ARCHITECTURES))
    parser.add_argument("--minutes", type=float, default=80.0, help="training time, without the pool's rendering")
    parser.add_argument("--scenes", type=int, default=11200, help="rendered training scenes")
    parser.add_argument("--out", type=Path, help="Hugging Face folder to write; the embedded model's by default")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_answerer"), help="pool and resumable state")
    parser.add_argument("--detr", type=Path, default=Path(asset("detr")), help="DETR whose backbone gives features")
    parser.add_argument("--resume", action="store_true", help="go on from the work folder's state")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--role-loss", type=float, help="weight of the regions' roles; the architecture's by default")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.out = args.out or Path(asset(args.model))
    if args.role_loss is None:
        args.role_loss = ARCHITECTURES[args.model].role_loss
    return args


def main() -> None:
    args = parse()
    architecture = ARCHITECTURES[args.model]
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    if args.evaluate:
        trained = architecture.model.from_pretrained(args.out).to(device)
        encoder, asked = validation(args.out, json.loads((args.out / "label2ans.json").read_text(encoding="utf-8")))
        print(json.dumps(accuracy(architecture, trained, encoder, asked, device), indent=1))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    folder = scene_pool(args.scenes, args.seed, args.detr, args.work)
    coco = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    names, answers = class_names(coco), answers_of(coco)
    pool = ScenePool.build(coco, folder)
    make_tokenizer(names, args.out, LONGEST)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    words = torch.tensor([tokenizer.convert_tokens_to_ids(forms) for forms in (names, list(map(plural, names)))])
    config = architecture.configuration(len(tokenizer), pool.features.shape[-1], answers, len(names))
    encoder = Encoder(pool, args.out, answers, names)
    held, questions = validation(args.out, answers)

    trainee = Trainee(architecture, config, words, args.role_loss).to(device).train()
    optimizer = torch.optim.AdamW(trainee.parameters(), args.rate, weight_decay=0.01, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    state = args.work / f"{args.model}.safetensors"
    if args.resume and state.is_file():
        stopped = load_state(state)
        trainee.load_state_dict(stopped.weights)
        stopped.restore_moments(optimizer)
        step, spent = stopped.progress["step"], stopped.progress["spent"]
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
            print(f"{spent / 60:6.1f} min", accuracy(architecture, trainee.model, held, questions, device), flush=True)
            save_model(trainee.model, answers, args.out)
            save_state(state, trainee.state_dict(), optimizer, {"step": step, "spent": spent})
            saved = time.monotonic()
        if spent >= budget:
            break


if __name__ == "__main__":
    main()
