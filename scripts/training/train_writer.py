"""Train the embedded BART, which answers questions about scenes described in words.

    python scripts/training/train_writer.py --minutes 60
    python scripts/training/train_writer.py --evaluate
    python scripts/training/train_writer.py --items

Training scenes and questions are drawn anew from a seed; the held-out ones are the embedded questions about the
embedded scenes (`--items` writes them down). Checkpoints can be resumed, and each is a complete Hugging Face folder.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoints import load_state, save_state, updated_folder
from question_data import class_names, evened
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor, nn
from train_answerer import rate
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from hetexp.data.synthetic.candidates import scenes_from_coco
from hetexp.data.synthetic.descriptions import (
    ASKED,
    DescribedQuestion,
    describe_question,
    height_question,
    random_scene,
    vocabulary,
)
from hetexp.data.synthetic.questions import generate
from hetexp.data.vqa import write_items
from hetexp.paths import asset

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
# Asked more often in training than in the validation set: what takes longest to learn.
SHARES = dict(zip(ASKED, (0.30, 0.14, 0.30, 0.16, 0.10), strict=True))
HEIGHTS = 2  # questions for a height to each scene, beside six others: they teach to find a thing by its name
LIMIT = 64  # tokens


def make_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a word, which puts a text between <s> and </s>."""
    entries = {word: i for i, word in enumerate([*SPECIAL.values(), *words])}
    core = Tokenizer(WordLevel(entries, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, entries[word]) for word in (SPECIAL["bos_token"], SPECIAL["eos_token"])]
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LIMIT, **SPECIAL)


def make_config(tokenizer: PreTrainedTokenizerFast, layers: int, width: int) -> BartConfig:
    """Return the settings of a small BART whose decoder starts from <s>."""
    return BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LIMIT,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=None,
        num_labels=0,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, names: Sequence[str], size: int, seed: int, step: int, scenes: int = 2000
) -> Iterator[dict[str, Tensor]]:
    """Yield training batches for ever: every round draws scenes and asks questions of each."""
    per_round = (6 + HEIGHTS) * scenes // size
    number = step // per_round
    while True:
        rng = random.Random(f"{seed} round {number}")
        drawn = {str(i): random_scene(rng, str(i)) for i in range(scenes)}
        asked = generate(
            list(drawn.values()), names, 6 * scenes, rng.randrange(2**31), tries=8, n_candidates=12, shares=SHARES
        )
        heights = [height_question(scene, rng) for scene in drawn.values() for _ in range(HEIGHTS)]
        questions = [*evened(asked, rng), *(q for q in heights if q is not None)]
        items = [describe_question(q, drawn[q["img_id"]]) for q in questions]
        items += rng.choices(items, k=max(0, per_round * size - len(items)))
        items.sort(key=lambda item: item.source.count(" "))  # of like length, so that little is padding
        for start in rng.sample(range(0, per_round * size, size), per_round):
            yield encoded(tokenizer, items[start : start + size])
        number += 1


def encoded(tokenizer: PreTrainedTokenizerFast, items: Sequence[DescribedQuestion]) -> dict[str, Tensor]:
    """Return the model's inputs and labels of some questions."""
    source = tokenizer([i.source for i in items], padding=True, return_tensors="pt", return_token_type_ids=False)
    target = tokenizer([i.target for i in items], padding=True, return_tensors="pt")["input_ids"]
    labels = target[:, 1:].masked_fill(target[:, 1:] == tokenizer.pad_token_id, -100)
    return dict(source) | {"decoder_input_ids": target[:, :-1], "labels": labels}


def held_out() -> list[tuple[dict[str, Any], DescribedQuestion]]:
    """Return the embedded questions that a description settles and one for a height to each scene, in words."""
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text(encoding="utf-8"))
    scenes = {scene.img_id: scene for scene in scenes_from_coco(coco)}
    questions = json.loads((Path(asset("vqa")) / "questions.json").read_text(encoding="utf-8"))
    questions = [q for q in questions if q["question_type"] in ASKED]
    heights = (height_question(scene, random.Random(name)) for name, scene in scenes.items())
    questions += [q for q in heights if q is not None]
    return [(q, describe_question(q, scenes[q["img_id"]])) for q in questions]


@torch.no_grad()
def accuracy(
    model: BartForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, items: Sequence[DescribedQuestion]
) -> dict[str, float]:
    """Return the share of answers that are written greedily without a fault, by question type and over all ("all")."""
    hits: Counter[str] = Counter()
    total: Counter[str] = Counter()
    model.eval()
    for start in range(0, len(items), 128):
        chosen = items[start : start + 128]
        inputs = {k: v for k, v in encoded(tokenizer, chosen).items() if k in ("input_ids", "attention_mask")}
        written = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=12)
        for item, text in zip(chosen, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            for key in ("all", item.question_type):
                hits[key] += text.split() == item.target.split()
                total[key] += 1
    model.train()
    return {key: round(hits[key] / total[key], 4) for key in total}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path(asset("bart")), help="Hugging Face folder to write")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_writer"), help="resumable state")
    parser.add_argument("--resume", action="store_true", help="go on from the work folder's state")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out")
    parser.add_argument("--items", action="store_true", help="only write the held-out questions beside the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2, help="of the encoder, and of the decoder")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.items:
        items = [item.item(str(q["question_id"]), q["img_id"]) for q, item in held_out()]
        write_items(items, args.out / "sentences.json")
        return
    if args.evaluate:
        model = BartForConditionalGeneration.from_pretrained(args.out)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
        print(json.dumps(accuracy(model, tokenizer, [item for _, item in held_out()]), indent=1))
        return
    train(args)


def train(args: argparse.Namespace) -> None:
    """Train for the given time and save."""
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    coco = json.loads((Path(asset("scenes")) / "val" / "annotations.json").read_text(encoding="utf-8"))
    tokenizer = make_tokenizer(vocabulary(coco))
    model = BartForConditionalGeneration(make_config(tokenizer, args.layers, args.width)).train()
    optimizer = torch.optim.AdamW(model.parameters(), args.rate, weight_decay=0.01, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    state = args.work / "state.safetensors"
    if args.resume and state.is_file():
        stopped = load_state(state)
        model.load_state_dict(stopped.weights, strict=False)  # the tied embeddings are kept once
        model.tie_weights()
        stopped.restore_moments(optimizer)
        step, spent = stopped.progress["step"], stopped.progress["spent"]
    watched = [item for _, item in held_out()]
    budget, started, saved = args.minutes * 60, time.monotonic() - spent, time.monotonic()
    losses: list[float] = []
    for batch in batches(tokenizer, class_names(coco), args.batch, args.seed, step):
        spent = time.monotonic() - started
        for group in optimizer.param_groups:
            group["lr"] = rate(spent / budget, args.rate)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            print(f"{spent / 60:6.1f} min step {step} loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()
        if spent >= budget or time.monotonic() - saved > 180:
            print(f"{spent / 60:6.1f} min", accuracy(model, tokenizer, watched), flush=True)
            with updated_folder(args.out) as new:
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
            kept = {name: value for name, value in model.state_dict().items() if value is not None}
            shared = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"}
            save_state(
                state, {k: v for k, v in kept.items() if k not in shared}, optimizer, {"step": step, "spent": spent}
            )
            saved = time.monotonic()
        if spent >= budget:
            break


if __name__ == "__main__":
    main()
