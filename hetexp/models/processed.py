"""Loading of models with their own processor or tokenizer, and what these make of text, pictures and sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel

from hetexp.errors import ConfigError
from hetexp.files import content_hash
from hetexp.models.checkpoints import expect_type, load_weights, pinned, read_config, readable
from hetexp.models.wrapped import WrappedModel

# Any of these files says that a folder holds a processor, a tokenizer or a feature extractor.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")


class ProcessedModel(WrappedModel):
    """A model with the processor that it was trained with.

    Args:
        model: it is set to eval mode.
        processor: a processor or a tokenizer of the library, or None.
    """

    name: str
    model_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, model: PreTrainedModel, processor: Any = None) -> None:
        self.model: Any = model.eval()
        self.processor = processor

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, revision: str | None = None) -> Self:
        """The model of a checkpoint with its processor, if it lies there; see `hetexp.load_model`.

        Raises:
            CheckpointError: for a checkpoint that does not fit.
            OSError: for one that is not there.
        """
        revision = pinned(source, revision, {})
        config = read_config(source, revision)
        expect_type(source, config, cls.name)
        model = load_weights(cls.model_class, source, config, revision, dtype)
        folder = Path(source)
        processor = None
        if not folder.is_dir() or any((folder / name).exists() for name in _PROCESSOR_FILES):
            with readable(f"the processor of {source!r}"):
                processor = cls.read_processor(source, revision)
        return cls(model.to(device), processor)

    @classmethod
    def read_processor(cls, source: str, revision: str | None) -> Any:
        """The checkpoint's processor, or its tokenizer where it has nothing else."""
        return AutoProcessor.from_pretrained(source, revision=revision)

    @property
    def labels(self) -> dict[int, str]:
        """What the logits stand for."""
        return {}

    @property
    def preparation(self) -> dict[str, Any]:
        vocabulary = None if self._tokenizer is None else content_hash(sorted(self._tokenizer.get_vocab().items()))
        images = getattr(self.processor, "image_processor", None)
        sounds = getattr(self.processor, "feature_extractor", None)
        settings = [None if part is None else part.to_json_string() for part in (images, sounds)]
        return {"tokenizer": vocabulary, "image_processor": settings[0], "feature_extractor": settings[1]}

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer itself, or None."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ConfigError: if the model was built without.
        """
        self.require_processor()
        return self._tokenizer

    def require_processor(self) -> Any:
        """The processor.

        Raises:
            ConfigError: if there is none.
        """
        if self.processor is None:
            raise ConfigError(
                f"this {self.name} has no processor: save its tokenizer or processor beside the weights, "
                "or give the model's own tensors"
            )
        return self.processor

    def words(self, ids: Tensor) -> list[str]:
        """Tokens as text, special ones included; their numbers where there is no tokenizer, or it has no such token."""
        if self._tokenizer is None:
            return [str(i) for i in ids.tolist()]
        found = self._tokenizer.convert_ids_to_tokens(ids.tolist())
        return [str(i) if token is None else token for i, token in zip(ids.tolist(), found, strict=True)]

    def placed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs, completed, on the model's device, floating ones in its type."""
        return {
            key: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for key, value in self.completed(inputs).items()
        }

    def completed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs where the caller keeps them, with what may be left out."""
        return dict(inputs)


class WithTokenizer(ProcessedModel):
    """A model that reads text alone: its processor is a tokenizer."""

    @classmethod
    def read_processor(cls, source: str, revision: str | None) -> Any:
        return AutoTokenizer.from_pretrained(source, revision=revision)


def as_list(values: Any) -> list[Any]:
    """One item or several, as a list."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]


def mask_of(mask: Tensor | None, tokens: Tensor) -> Tensor:
    """A mask as bool [B, N], on the CPU; without one every token is valid."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
