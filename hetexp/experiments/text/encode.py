"""Sentences as a model's tokens: what is explained of each, and which source tokens decide it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetexp.data.sentences import Decided, Sentence, Span
from hetexp.errors import ConfigError, InputError
from hetexp.experiments.vqa.attribution import deciding_tokens
from hetexp.models.encoder_decoder import TextToText
from hetexp.targets import Logit


@dataclass(frozen=True)
class ExplainedToken:
    """One token of a target.

    Attributes:
        position: the decoder position whose logits are those of the token.
        token: its number.
        deciding: positions of the source tokens that decide it; empty if that is not known.
        role: as in `Decided`.
    """

    position: int
    token: int
    deciding: tuple[int, ...] = ()
    role: str = ""

    @property
    def target(self) -> Logit:
        """y, the logit of the token."""
        return Logit(self.token, query=self.position)


@dataclass(frozen=True)
class EncodedSentence:
    """A sentence as tokens, without padding.

    Attributes:
        sentence: the sentence itself.
        source: tokens that the encoder reads, special ones included [T].
        words: which of them stand for characters of the source, ascending; only these are ever removed.
        prefix: the decoder's start token and the tokens of the target [P].
        explained: what is explained.
    """

    sentence: Sentence
    source: Tensor
    words: tuple[int, ...]
    prefix: Tensor
    explained: tuple[ExplainedToken, ...]


def require_reader(adapter: object) -> TextToText:
    """The adapter, which must be one that reads text and writes text.

    Raises:
        ConfigError: for another model.
    """
    if not isinstance(adapter, TextToText):
        raise ConfigError(
            f"this experiment is for encoder-decoders that read text (bart, marian, t5), not for "
            f"{getattr(adapter, 'name', adapter)!r}: explain its inputs with task=explain"
        )
    return adapter


def encode(adapter: TextToText, sentence: Sentence) -> EncodedSentence:
    """Tokens of a sentence.

    Raises:
        InputError: if it is longer than the model reads or writes, or a span stands for no token.
        ConfigError: for a tokenizer that does not say which characters its tokens stand for.
    """
    inputs = adapter.prepare(sentence.source, sentence.target)
    source, prefix = inputs["input_ids"][0].cpu(), inputs["decoder_input_ids"][0].cpu()
    longest = max(len(source), len(prefix))  # encoder and decoder of these models take equally many
    if adapter.longest is not None and longest > adapter.longest:
        raise InputError(f"it has {longest} tokens, and this model takes {adapter.longest}")
    read, written = adapter.offsets(sentence.source), adapter.offsets(sentence.target, written=True)
    words = tuple(i for i, (start, end) in enumerate(read) if end > start)
    if sentence.decided is None:
        found = [ExplainedToken(t, int(prefix[t + 1])) for t in range(len(written))]
    else:
        found = [_explained(decided, read, written, prefix) for decided in sentence.decided]
    return EncodedSentence(sentence, source, words, prefix, tuple(found))


def _explained(decided: Decided, read: list[Span], written: list[Span], prefix: Tensor) -> ExplainedToken:
    """The first token of a decided word: the others follow from it as much as from the source."""
    own, deciding = deciding_tokens([decided.span], written), deciding_tokens(decided.deciding, read)
    if not own or (decided.deciding and not deciding):
        raise InputError(f"no token of this tokenizer stands for its span {list(decided.span)}, or for what decides it")
    return ExplainedToken(own[0], int(prefix[own[0] + 1]), tuple(deciding), decided.role)


def collate(pad: int, rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Model inputs of sources [T] with decoder prefixes [P], padded at their ends."""
    out = {}
    for key, mask, parts in (
        ("input_ids", "attention_mask", [source for source, _ in rows]),
        ("decoder_input_ids", "decoder_attention_mask", [prefix for _, prefix in rows]),
    ):
        out[key] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(part) for part in parts])
        out[mask] = (torch.arange(out[key].shape[1]) < lengths[:, None]).long()
    return out
