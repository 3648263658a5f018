"""BLIP that answers questions (Li et al., ICML 2022, doi:10.48550/arXiv.2201.12086).

Streams: `image` (CLS and patches), `text` (the question) and `answer` (the tokens that the decoder has been given). The
picture attends itself; each layer of the question attends itself, then the picture; each layer of the answer attends
itself, then the question. So the picture reaches the answer through the question alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipForQuestionAnswering

from hetexp.errors import InputError
from hetexp.models.observe import hooked
from hetexp.models.observed_run import Inputs, Place, Run, patches, sequence
from hetexp.models.processed import as_list, mask_of
from hetexp.models.trace import AttentionTrace, Target
from hetexp.models.wiring import Wire
from hetexp.models.writer import Writer


class BlipAdapter(Writer):
    """A `BlipForQuestionAnswering`; the source `image` is its patches, without CLS."""

    name = "blip"
    sources: tuple[str, ...] = ("image", "text", "answer")
    model_class = BlipForQuestionAnswering
    causal = written = "answer"

    @property
    def start_token(self) -> int:
        return int(self.model.decoder_start_token_id)

    @property
    def _layers(self) -> dict[str, Sequence[Any]]:
        return {
            "image": list(self.model.vision_model.encoder.layers),
            "text": list(self.model.text_encoder.encoder.layer),
            "answer": list(self.model.text_decoder.bert.encoder.layer),
        }

    def trace(
        self,
        inputs: Inputs,
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        """As of every `ObservedModel`; questions of several lengths run apart, each without padding.

        The library's cross-attention leaves masks out: in a padded batch an answer would attend the padding.
        """
        batch = self.completed(inputs)
        self.check_targets(batch, targets)
        mask, width = mask_of(batch.pop("attention_mask", None), batch["input_ids"]), batch["input_ids"].shape[1]
        lengths = mask.sum(1).tolist()
        if not all(bool(row[:n].all()) for row, n in zip(mask, lengths, strict=True)):
            raise InputError("questions must be padded at their end: attention_mask is to be 1s, then 0s")
        found: dict[int, AttentionTrace] = {}
        for length in dict.fromkeys(lengths):
            members = [b for b, n in enumerate(lengths) if n == length]
            alike = {key: value[members] for key, value in batch.items()}
            alike["input_ids"] = alike["input_ids"][:, :length]
            traces = super().trace(alike, [targets[b] for b in members], features=features)
            for b, one in zip(members, traces, strict=True):
                text = replace(one.layouts["text"], shape=(width,))
                found[b] = replace(one, layouts={**one.layouts, "text": text})
        return [found[b] for b in range(len(lengths))]

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the picture."""
        return [Wire(f"image.{i}", layer.self_attn, "image", "image") for i, layer in enumerate(self._layers["image"])]

    def fusion_wires(self) -> Sequence[Wire]:
        """The question attends itself and the picture, layer by layer; then the answer itself and the question."""
        wires = []
        for stream, read in (("text", "image"), ("answer", "text")):
            for i, layer in enumerate(self._layers[stream]):
                wires.append(Wire(f"{stream}.{i}.self", layer.attention.self, stream, stream))
                wires.append(Wire(f"{stream}.{i}.cross", layer.crossattention.self, stream, read))
        return wires

    def first_layers(self) -> Mapping[str, nn.Module]:
        return {stream: layers[0] for stream, layers in self._layers.items()}

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        """The forward pass; the class itself returns no logits, its decoder does."""
        found: list[Tensor] = []
        hook = self.model.text_decoder.register_forward_hook(lambda module, args, output: found.append(output.logits))
        with hooked([hook]):
            self.model(**inputs)
        return found[0], {}

    def _patches(self, inputs: Inputs) -> Place:
        return patches("image", inputs["pixel_values"], self.model.config.vision_config.patch_size, 1)

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        shape = (len(inputs["pixel_values"]), 1 + len(self._patches(inputs).tokens))
        return {
            "image": torch.ones(shape, dtype=torch.bool),
            "text": mask_of(None, inputs["input_ids"]),
            **super().valid(inputs, notes),
        }

    def places(self, run: Run, item: int) -> dict[str, Place]:
        own = {s: sequence(s, run.valid[s][item]) for s in ("text", "answer")}
        return {"image": self._patches(run.inputs), **own}

    def bare(self, ids: Sequence[int]) -> list[int]:
        """Tokens of an answer without those that stand at its ends: BLIP's own start takes the place of CLS."""
        return list(ids[1:-1])

    @torch.no_grad()
    def generate(self, inputs: Inputs, max_new_tokens: int) -> Tensor:
        """The answer that the model writes greedily: token ids [B, N], the start token included."""
        given = inputs.get("decoder_input_ids")
        if given is not None and given.shape[1] > 1:
            raise InputError("BLIP writes an answer from its start token only: leave decoder_input_ids out")
        batch = {key: value for key, value in self.placed(inputs).items() if key != "decoder_input_ids"}
        most = self.at_most(max_new_tokens, batch)
        found: Tensor = self.model.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=most)
        return found

    def prepare(
        self, text: str | Sequence[str], image: Any, target: str | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Inputs of one or several questions, each with its RGB picture, and of what is to have been answered."""
        processor = self.require_processor()
        found = dict(processor(images=as_list(image), text=as_list(text), padding=True, return_tensors="pt"))
        found.pop("token_type_ids", None)
        return self.placed(found | self.prefix(target))
