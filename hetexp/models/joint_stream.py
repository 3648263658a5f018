"""Question answering with text and picture in one stream, as in VisualBERT and ViLT.

Stream: `joint`, text first. Every layer is self-attention among all its tokens, so the sources are parts of it and no
layer belongs to one source alone.

To remove words or parts of the picture is to leave them out of the stream: the model runs on what stays. Words move up
as in any shorter question; regions have no position, and patches keep theirs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hetexp.errors import InputError
from hetexp.models.answering import Answering, answers_of
from hetexp.models.observe import replaced
from hetexp.models.observed_model import ObservedModel
from hetexp.models.observed_run import Inputs, Question, Run
from hetexp.models.packed import blocks, by_length, inverse, packed_attention
from hetexp.models.protocols import EncodedQuestion
from hetexp.models.trace import Target
from hetexp.models.wiring import Wire


class JointAnswerer(Answering, ObservedModel):
    """A model with one stream that chooses among known answers; an `Answerer`.

    Args:
        model: it is set to eval mode; any attention implementation does.
        processor: its tokenizer or processor; what reads text needs it.
        answers: answer strings in the order of the logits; by default those that its configuration names.
    """

    kind = "vqa"
    sources: tuple[str, ...] = ("text", "image")
    attention: ClassVar[str]  # the attention module of a layer
    image_inputs: ClassVar[tuple[str, str]]  # names of the model's inputs: tokens of a picture [B, R, d], their mask

    def __init__(self, model: PreTrainedModel, processor: Any = None, answers: Sequence[str] | None = None) -> None:
        super().__init__(model, processor)
        named = {int(i): str(name) for i, name in self.model.config.id2label.items()}
        known = any(name != f"LABEL_{i}" for i, name in named.items())  # the library's own names say nothing
        self._names = named
        self.answers = list(answers) if answers is not None else list(named.values()) if known else None

    @classmethod
    def load(
        cls,
        source: str,
        device: torch.device,
        dtype: torch.dtype,
        revision: str | None = None,
        *,
        answers: Sequence[str] | None = None,
    ) -> Self:
        """The model of a checkpoint; see `hetexp.load_model`.

        Args:
            answers: answer strings; by default the folder's `label2ans.json`, else those of `config.json`.

        Raises:
            CheckpointError: for a checkpoint or an answer list that does not fit.
            OSError: for a checkpoint that is not there.
        """
        found = super().load(source, device, dtype, revision)
        found.answers = answers_of(source, answers, found.n_answers) or found.answers
        return found

    @property
    def labels(self) -> dict[int, str]:
        """Answer index -> answer."""
        return super().labels or self._names

    @property
    def n_answers(self) -> int:
        return int(self.model.config.num_labels)

    @property
    def question_tokenizer(self) -> Any:
        return self.tokenizer

    # -- answers to questions and to parts of them -------------------------------------------------------------

    def collate(self, questions: Sequence[EncodedQuestion]) -> dict[str, Tensor]:
        """One padded batch of model inputs; 0 marks padding in its masks."""
        regions = self.encode_regions(self.embed_regions([(q.features, q.boxes) for q in questions]))
        return self._joined([q.input_ids for q in questions], regions)

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> Tensor:
        """Answer logits [B, answers]; an item without any real region sees no image at all."""
        return self.run(self.placed(inputs))[0][:, 0]

    def encode_texts(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """The token ids themselves: from the first layer on, words are read together with the picture."""
        return list(texts)

    @abstractmethod
    def embed_regions(self, regions: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """What the model reads of features [R, D] and boxes [R, 4], for every pair, a row per region."""

    def encode_regions(self, embedded: Sequence[Tensor]) -> list[Tensor]:
        """The rows themselves: from the first layer on, regions are read together with the words."""
        return list(embedded)

    def answer_parts(self, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> Tensor:
        """Answer logits [B, answers] from what `encode_texts` and `encode_regions` gave.

        The layers run on packed sequences (see `hetexp.models.packed`), and the last one for the token alone that the
        answer is read from.
        """
        order = by_length([len(t) + len(r) for t, r in zip(texts, regions, strict=True)])
        inputs = self._joined([texts[i] for i in order], [regions[i] for i in order])
        valid = torch.cat((inputs["attention_mask"], inputs[self.image_inputs[1]]), 1).bool()
        read = [self.answer_token(len(texts[i])) for i in order]
        with replaced(self.model.base_model.encoder, "forward", partial(self._packed, valid, read)):
            return self.predict(inputs)[inverse(order)]

    @abstractmethod
    def answer_token(self, n_text: int) -> int:
        """Position of the token that the answer is read from, in a question of `n_text` tokens."""

    def attention_input(self, layer: Any, hidden: Tensor) -> Tensor:
        """What a layer's attention reads of the layer's input [..., N, d]: the input itself, unless overridden."""
        return hidden

    def _packed(self, valid: Tensor, read: Sequence[int], hidden: Tensor, **kwargs: Any) -> BaseModelOutput:
        """The layers' output [B, N, d] at the positions that are read, 0 elsewhere, for what is `valid` [B, N]."""
        lengths, items = valid.sum(1).tolist(), range(len(valid))
        rows = hidden[valid.to(hidden.device)][None]
        *layers, last = self.layers
        for layer in layers:
            module = layer.get_submodule(self.attention)
            attending = partial(packed_attention, module, blocks(lengths, lengths))
            with replaced(module, "forward", attending):
                rows = layer(rows)[0]
        module = last.get_submodule(self.attention)
        source = self.attention_input(last, rows)
        asking = [start + token for start, token in zip(accumulate(lengths, initial=0), read, strict=False)]
        attending = partial(packed_attention, module, blocks([1] * len(valid), lengths), source=source)
        with replaced(module, "forward", attending):
            answering = last(rows[:, asking])[0]
        out = torch.zeros_like(hidden)
        out[items, read] = answering[0]
        return BaseModelOutput(last_hidden_state=out)

    def _joined(self, texts: Sequence[Tensor], regions: Sequence[Tensor]) -> dict[str, Tensor]:
        image, image_mask = self.image_inputs
        return {
            "input_ids": pad_sequence(list(texts), batch_first=True),
            "attention_mask": _lengths_mask(texts),
            image: pad_sequence(list(regions), batch_first=True),
            image_mask: _lengths_mask(regions),
        }

    # -- the wiring --------------------------------------------------------------------------------------------

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers, first to last."""
        body = self.model.base_model
        return list(body.encoder.layer)

    def encoder_wires(self) -> Sequence[Wire]:
        """None: text and picture meet in the first layer."""
        return []

    def fusion_wires(self) -> Sequence[Wire]:
        """Self-attention of the joint stream."""
        return [
            Wire(f"layer.{i}", layer.get_submodule(self.attention), "joint", "joint")
            for i, layer in enumerate(self.layers)
        ]

    def first_layers(self) -> Mapping[str, nn.Module]:
        return {"joint": self.layers[0]}

    def completed(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs with the mask of the text."""
        batch = super().completed(inputs)
        batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
        return batch

    def row(self, run: Run, item: int, target: Target) -> int:
        if target.query is not None:
            raise InputError(f"a target names query {target.query}: {self.name} has one row of logits, leave it unset")
        return 0

    def outputs(self, run: Run, question: Question) -> dict[str, Any]:
        return {"logits": run.logits[question.item, 0].detach()}

    def token_texts(self, inputs: Inputs, item: int = 0) -> dict[str, list[str]]:
        """The question's tokens as text."""
        return {"text": self.words(inputs["input_ids"][item])}


def _lengths_mask(parts: Sequence[Tensor]) -> Tensor:
    """1 for what is real of padded sequences [B, N], else 0."""
    return pad_sequence([torch.ones(len(part), dtype=torch.long) for part in parts], batch_first=True)
