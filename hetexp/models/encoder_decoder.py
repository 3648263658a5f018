"""Encoder-decoders that write text: BART, Marian, T5, Whisper, and vision encoder-decoders (TrOCR).

Streams: the encoder's, named after what it reads (`text`, `audio` or `image`), and `target`, the tokens that the
decoder has been given. Encoder layers are self-attention; each decoder layer is causal self-attention on `target`, then
target attends the encoder's output. The logits of a decoder position are those of the token that follows it.

BART: Lewis et al., ACL 2020, doi:10.18653/v1/2020.acl-main.703. T5: Raffel et al., JMLR 2020,
doi:10.48550/arXiv.1910.10683. Marian: Junczys-Dowmunt et al., ACL 2018, doi:10.18653/v1/P18-4020. Whisper: Radford et
al., ICML 2023, doi:10.48550/arXiv.2212.04356. TrOCR: Li et al., AAAI 2023, doi:10.1609/aaai.v37i11.26538.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartForConditionalGeneration,
    MarianMTModel,
    T5ForConditionalGeneration,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
    WhisperForConditionalGeneration,
)

from hetexp.errors import CheckpointError, ConfigError
from hetexp.models.observed_run import Inputs, Place, Run, patches, sequence
from hetexp.models.processed import WithTokenizer, as_list, mask_of
from hetexp.models.writer import EncoderDecoder

SAMPLING_RATE = 16000  # of the sound that Whisper was trained with, Hz


class TextToText(WithTokenizer, EncoderDecoder):
    """An encoder-decoder that reads text."""

    sources: tuple[str, ...] = ("text", "target")

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        return {
            "text": mask_of(inputs.get("attention_mask"), inputs["input_ids"]),
            **super().valid(inputs, notes),
        }

    def prepare(self, text: str | Sequence[str], target: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """Inputs of one or several texts, and of what the decoder is to have written."""
        found = dict(self.tokenizer(as_list(text), padding=True, return_tensors="pt", return_token_type_ids=False))
        return self.placed(found | self.prefix(target))

    def offsets(self, text: str, *, written: bool = False) -> list[tuple[int, int]]:
        """Character range of every token of a text, the empty one (0, 0) of tokens that stand for none.

        Args:
            text: what is read, or `written`: then the ranges are those of the tokens that `prefix` holds.

        Raises:
            ConfigError: for a tokenizer that does not say.
        """
        if not self.tokenizer.is_fast:
            raise ConfigError(
                f"the tokenizer of this {self.name} ({type(self.tokenizer).__name__}) does not say which characters "
                "its tokens stand for: save a fast one beside the weights"
            )
        given: dict[str, Any] = {"text_target" if written else "text": text}
        found = self.tokenizer(**given, return_offsets_mapping=True)
        ranges = [(int(start), int(end)) for start, end in found["offset_mapping"]]
        if not written:
            return ranges
        ids, kept = found["input_ids"], self.bare(found["input_ids"])
        skipped = int(bool(ids) and ids[0] == self.start_token)
        return ranges[skipped : skipped + len(kept)]


class BartAdapter(TextToText):
    """A `BartForConditionalGeneration`."""

    name = "bart"
    model_class = BartForConditionalGeneration


class MarianAdapter(TextToText):
    """A `MarianMTModel`."""

    name = "marian"
    model_class = MarianMTModel


class T5Adapter(TextToText):
    """A `T5ForConditionalGeneration`."""

    name = "t5"
    model_class = T5ForConditionalGeneration
    self_attention = ("layer.0.SelfAttention", "layer.0.SelfAttention")
    cross_attention = "layer.1.EncDecAttention"

    @property
    def encoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.encoder.block)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.decoder.block)


class WhisperAdapter(EncoderDecoder):
    """A `WhisperForConditionalGeneration`; the source `audio` is the encoder's frames after its convolutions."""

    name = "whisper"
    sources: tuple[str, ...] = ("audio", "target")
    model_class = WhisperForConditionalGeneration

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        frames = (len(inputs["input_features"]), self.model.config.max_source_positions)
        return {"audio": torch.ones(frames, dtype=torch.bool), **super().valid(inputs, notes)}

    def run(self, inputs: Inputs) -> tuple[Tensor, Mapping[str, Any]]:
        unmasked = {key: value for key, value in inputs.items() if key != "attention_mask"}  # Whisper hears silence too
        return super().run(unmasked)

    def prepare(self, audio: Any, target: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """Inputs of one recording [samples] at 16 kHz, or several, and of what the decoder is to have written."""
        extractor = getattr(self.require_processor(), "feature_extractor", self.processor)
        sound = extractor(audio, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        found = {"input_features": sound["input_features"]}
        return self.placed(found | self.prefix(target))


class VisionEncoderDecoderAdapter(EncoderDecoder):
    """A `VisionEncoderDecoderModel` of a ViT or DeiT and a TrOCR decoder.

    The source `image` is the patches; CLS and distillation tokens are attended, but belong to no place of the picture.
    """

    name = "vision-encoder-decoder"
    sources: tuple[str, ...] = ("image", "target")
    model_class = VisionEncoderDecoderModel
    self_attention = ("attention", "self_attn")

    def __init__(self, model: VisionEncoderDecoderModel, processor: Any = None) -> None:
        kinds = model.config.encoder.model_type, model.config.decoder.model_type
        if kinds[0] not in ("vit", "deit") or kinds[1] != "trocr":
            raise CheckpointError(
                f"this vision encoder-decoder joins {kinds[0]!r} and {kinds[1]!r}; explained are those that join a "
                "'vit' or 'deit' with a 'trocr' decoder"
            )
        super().__init__(model, processor)

    @classmethod
    def read_processor(cls, source: str, revision: str | None) -> Any:
        return TrOCRProcessor.from_pretrained(source, revision=revision)

    @property
    def encoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.encoder.layers)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        return list(self.model.decoder.model.decoder.layers)

    @property
    def _before(self) -> int:
        """Tokens before the first patch: CLS, and DeiT's distillation token."""
        return 2 if hasattr(self.model.encoder.embeddings, "distillation_token") else 1

    def _patches(self, inputs: Inputs) -> Place:
        patch = self.model.config.encoder.patch_size
        return patches("image", inputs["pixel_values"], patch, self._before)

    def valid(self, inputs: Inputs, notes: Mapping[str, Any]) -> dict[str, Tensor]:
        shape = (len(inputs["pixel_values"]), self._before + len(self._patches(inputs).tokens))
        return {"image": torch.ones(shape, dtype=torch.bool), **super().valid(inputs, notes)}

    def places(self, run: Run, item: int) -> dict[str, Place]:
        return {"image": self._patches(run.inputs), "target": sequence("target", run.valid["target"][item])}

    def prepare(self, image: Any, target: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """Inputs of one or several RGB pictures, and of what the decoder is to have written."""
        processor = getattr(self.require_processor(), "image_processor", self.processor)
        found = {"pixel_values": processor(images=as_list(image), return_tensors="pt")["pixel_values"]}
        return self.placed(found | self.prefix(target))
