"""A tiny random BART, also with a tokenizer of a few words, saved as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import lively
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

WORDS = "is there a dog cat red blue how many yes no the at height ? . , 1 2 3".split()
BART_SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": 24,
    "max_position_embeddings": 32,
    "attn_implementation": "eager",
}
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, between <s> and </s>."""
    entries = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    core = Tokenizer(WordLevel(entries, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", entries["<s>"]), ("</s>", entries["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=24, **SPECIAL)


def tiny_bart(**changes: Any) -> Any:
    """A random BART in double precision, with other sizes where they are given."""
    torch.manual_seed(0)
    return lively(BartForConditionalGeneration(BartConfig(**{**BART_SIZES, **changes})))


def save_bart(folder: Path) -> Path:
    """Write a random checkpoint into the folder."""
    tokenizer = word_tokenizer()
    model = tiny_bart(
        vocab_size=len(tokenizer),
        max_position_embeddings=24,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=None,
    )
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
