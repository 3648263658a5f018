"""Models that write text token by token: what the decoder is given, and encoder-decoders in general."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from hetexp.errors import ConfigError, InputError
from hetexp.models.observed_model import ObservedModel
from hetexp.models.observed_run import Inputs, Place, Question, Run, sequence
from hetexp.models.processed import as_list, mask_of
from hetexp.models.trace import Target
from hetexp.models.wiring import Wire, encoder_wires


class Writer(ObservedModel):
    """A model that writes text token by token; what it has been given of it is the source `written`."""

    kind = "text"
    written: ClassVar[str]

    # -- what it writes ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def start_token(self) -> int:
        """The token that the decoder starts from."""

    @cached_property
    def labels(self) -> dict[int, str]:
        """Token number -> token; empty without a tokenizer."""
        if self._tokenizer is None:
            return {}
        return {number: token for token, number in self._tokenizer.get_vocab().items()}

    def completed(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs; without a prefix the decoder is given the token that it starts from."""
        batch = super().completed(inputs)
        if "decoder_input_ids" not in batch:
            first = next(iter(batch.values()))
            batch["decoder_input_ids"] = torch.full((len(first), 1), self.start_token, device=first.device)
        return batch

    def prefix(self, targets: Any) -> dict[str, Tensor]:
        """Decoder inputs that hold some sentences: the start token and their tokens, without the end. None gives none.

        The logits of position t are those of token t of a sentence, and the last ones those of its end.
        """
        if targets is None:
            return {}
        tokenizer = self.tokenizer
        rows = [[self.start_token, *self.bare(ids)] for ids in tokenizer(text_target=as_list(targets))["input_ids"]]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), tokenizer.pad_token_id or 0)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return {"decoder_input_ids": ids, "decoder_attention_mask": mask}

    def bare(self, ids: Sequence[int]) -> list[int]:
        """Tokens of a sentence without the end, and without a start that the decoder is given anyway."""
        own = list(ids[1:] if ids and ids[0] == self.start_token else ids)
        ends = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return own[:-1] if own and own[-1] in ends else own

    def token_texts(self, inputs: Inputs, item: int = 0) -> dict[str, list[str]]:
        """Source -> its tokens as text, where it has some."""
        batch = self.placed(inputs)
        read = {"text": self.words(batch["input_ids"][item])} if "text" in self.sources else {}
        return read | {self.written: self.words(batch["decoder_input_ids"][item])}

    @property
    def longest(self) -> int | None:
        """Tokens that the decoder takes; None where its positions know no end."""
        own = self.model.config
        for config in (getattr(own, "text_config", None), getattr(own, "decoder", None), own):
            for name in ("max_target_positions", "max_position_embeddings"):
                if isinstance(getattr(config, name, None), int):
                    return int(getattr(config, name))
        return None

    def at_most(self, new_tokens: int, inputs: Inputs) -> int:
        """How many tokens can be written behind what the decoder is given."""
        given = self.placed(inputs)["decoder_input_ids"].shape[1]
        return new_tokens if self.longest is None else max(1, min(new_tokens, self.longest - given))

    @torch.no_grad()
    def generate(self, inputs: Inputs, max_new_tokens: int) -> Tensor:
        """What the model writes greedily, from its decoder inputs on: token ids [B, N], these included.

        It ends where the decoder takes no more.
        """
        most = self.at_most(max_new_tokens, inputs)
        found: Tensor = GenerationMixin.generate(
            self.model, **self.placed(inputs), do_sample=False, num_beams=1, max_new_tokens=most
        )
        return found

    # -- the wiring --------------------------------------------------------------------------------------------

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        return {self.written: mask_of(inputs.get("decoder_attention_mask"), inputs["decoder_input_ids"])}

    def row(self, run: Run, item: int, target: Target) -> int:
        """The decoder position of a target; without one the last, whose logits are those of the next token."""
        valid = run.valid[self.written][item]
        if target.query is None:
            return int(valid.nonzero()[-1])
        if not 0 <= target.query < len(valid) or not bool(valid[target.query]):
            raise InputError(
                f"decoder position {target.query} does not exist: this input has {int(valid.sum())} decoder tokens"
            )
        return target.query

    def readouts(self, run: Run, question: Question) -> dict[str, Sequence[int]]:
        return {self.written: question.rows}


class EncoderDecoder(Writer):
    """One encoder and a decoder that attends it."""

    causal = "target"
    written = "target"

    @property
    def read(self) -> str:
        """The encoder's stream."""
        return self.sources[0]

    @property
    def start_token(self) -> int:
        found = self.model.config.decoder_start_token_id
        if found is None:
            found = self.model.generation_config.decoder_start_token_id
        if found is None:
            raise ConfigError("this checkpoint names no decoder_start_token_id: give decoder_input_ids")
        return int(found)

    @property
    def encoder_layers(self) -> Sequence[nn.Module]:
        """The encoder's layers."""
        return list(self.model.model.encoder.layers)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The decoder's layers."""
        return list(self.model.model.decoder.layers)

    self_attention: ClassVar[tuple[str, str]] = ("self_attn", "self_attn")  # in a layer of the encoder, of the decoder
    cross_attention: ClassVar[str] = "encoder_attn"

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the encoder."""
        return encoder_wires(self.encoder_layers, self.self_attention[0], self.read)

    def fusion_wires(self) -> Sequence[Wire]:
        """Self-attention of the target, then target to source, layer by layer."""
        wires = []
        for i, layer in enumerate(self.decoder_layers):
            wires.append(
                Wire(f"decoder.{i}.self", layer.get_submodule(self.self_attention[1]), self.written, self.written)
            )
            wires.append(Wire(f"decoder.{i}.cross", layer.get_submodule(self.cross_attention), self.written, self.read))
        return wires

    def first_layers(self) -> Mapping[str, nn.Module]:
        return {self.read: self.encoder_layers[0], self.written: self.decoder_layers[0]}

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        return self.model(**inputs, use_cache=False).logits, {}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        return {s: sequence(s, run.valid[s][item]) for s in self.sources}
