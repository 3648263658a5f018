"""What all detectors have in common: loading, preprocessing, classes, detections, which queries a target means."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from hetexp.errors import ConfigError, InputError
from hetexp.models.backbone import valid_sizes
from hetexp.models.checkpoints import expect_type, load_weights, pinned, read_config, readable
from hetexp.models.original_checkpoints import backbone_renames, dilate, native_backbone
from hetexp.models.protocols import Detections
from hetexp.models.trace import AttentionTrace, Target, reads_box
from hetexp.models.wrapped import WrappedModel

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class ImageDetector(WrappedModel, ABC):
    """Runs a detector and returns its attention traces; a `Detector`.

    Args:
        model: it is set to eval mode; any attention implementation does.
        processor: image preprocessing; only `prepare` and `preprocess` need it.
        score_threshold: queries whose best class is more probable are kept.
        autocast: precision of the frozen backbone's convolutions, "bfloat16" or "float16"; None leaves the model's
            own. What gradients flow through is never touched.
    """

    name: str
    sources: tuple[str, ...] = ("image",)
    feature_names: tuple[str, ...]
    has_no_object: ClassVar[bool]  # whether the last logit stands for "no object"

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor | None = None,
        *,
        score_threshold: float = 0.5,
        autocast: str | None = None,
    ) -> None:
        if autocast is not None and autocast not in AUTOCAST:
            raise ConfigError(f"autocast={autocast!r} must be {' or '.join(AUTOCAST)}, or null")
        self.model: Any = model.eval()
        self.processor = processor
        self.score_threshold = score_threshold
        self.autocast = autocast

    # -- what an architecture decides --------------------------------------------------------------------------

    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type[BaseImageProcessor]]
    resnet: ClassVar[str] = "model.backbone.model"  # where a convolutional backbone is, for checkpoints made with timm
    revisions: ClassVar[Mapping[str, str]] = {}  # of hub checkpoints, where the default one does not fit

    @abstractmethod
    def class_scores(self, logits: Tensor) -> Tensor:
        """Class probabilities [..., classes] from the model's own logits."""

    @abstractmethod
    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        """Attention traces of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: `pixel_values` [B, 3, H, W] and optionally `pixel_mask` [B, H, W] (1 = real pixel).
            targets: per image its targets; one without a query stands for every kept query.
            features: of `feature_names` (the default one first) those to keep with their gradients; without any the
                backward pass ends at the first attention.

        Returns:
            one trace per image; its `outputs` hold the model's own `logits` [Q, ...] and `detections`.

        Raises:
            ConfigError: for a feature that the model does not have.
            InputError: for a query or class that does not exist, or a mask that is no top-left rectangle.
        """

    @abstractmethod
    def detect(self, inputs: Mapping[str, Tensor]) -> list[Detections]:
        """Predictions per image, padding handled as in `trace`."""

    # -- the rest they share -----------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        source: str,
        device: torch.device,
        dtype: torch.dtype,
        revision: str | None = None,
        *,
        score_threshold: float = 0.5,
        autocast: str | None = None,
    ) -> Self:
        """The detector of a checkpoint; see `hetexp.load_model`.

        Raises:
            CheckpointError: for a checkpoint that does not fit.
            OSError: for one that is not there.
        """
        model, processor = cls._read(source, dtype, pinned(source, revision, cls.revisions))
        if getattr(model.config, "dilation", False):
            dilate(model.get_submodule(cls.resnet))
        return cls(model.to(device), processor, score_threshold=score_threshold, autocast=autocast)

    @classmethod
    def _read(cls, source: str, dtype: torch.dtype, revision: str | None) -> tuple[Any, BaseImageProcessor | None]:
        """Model and image processor of a folder or hub id."""
        config = read_config(source, revision)
        expect_type(source, config, cls.name)
        renames = None
        if (
            getattr(config, "backbone_config", None) is not None
            and config.backbone_config.model_type == "timm_backbone"
        ):
            config = native_backbone(config)
            renames = backbone_renames(r"(?:model\.)?backbone\.(?:conv_encoder\.)?model\.", cls.resnet)
        model = load_weights(cls.model_class, source, config, revision, dtype, renames)
        settings = Path(source) / "preprocessor_config.json"
        try:
            with readable(str(settings)):
                processor = cls.processor_class.from_pretrained(source, revision=revision)
        except OSError:
            if settings.exists():
                raise
            processor = None  # a bare checkpoint is enough to explain tensors
        return model, processor

    def class_logits(self, logits: Tensor) -> Tensor:
        """Class logits [..., classes], without "no object", from the model's own."""
        return logits[..., :-1] if self.has_no_object else logits

    @property
    def labels(self) -> dict[int, str]:
        """Class index -> name, without "no object"."""
        return {int(i): str(name) for i, name in self.model.config.id2label.items()}

    @property
    def preparation(self) -> dict[str, Any]:
        processor = None if self.processor is None else self.processor.to_json_string()
        return {"processor": processor, "autocast": self.autocast, "score_threshold": self.score_threshold}

    def prepare(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Resize, normalise and pad RGB images to `pixel_values` [B, 3, H, W] and `pixel_mask` [B, H, W].

        Raises:
            InputError: for one image instead of several, and for what is no RGB image.
            ConfigError: if the checkpoint has no `preprocessor_config.json`.
        """
        if isinstance(images, Image):
            raise InputError("prepare takes a sequence of images: put the one into a list, prepare([image])")
        return self.collate([self.preprocess(image) for image in images])

    def preprocess(self, image: Image) -> Tensor:
        """Resize and normalise one RGB image to [3, H, W] on the CPU; safe to call from another thread."""
        if self.processor is None:
            raise ConfigError(self._without_processor())
        if not isinstance(image, Image) or image.mode != "RGB":
            what = f"one in mode {image.mode}" if isinstance(image, Image) else f"a {type(image).__name__}"
            raise InputError(f"images must be PIL images in mode RGB, got {what}: convert it, image.convert('RGB')")
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]

    def _without_processor(self) -> str:
        """What to do without image preprocessing, as a sentence."""
        folder, kind = self.model.config._name_or_path, self.processor_class
        if not folder:
            return "this detector was built without an image processor: give it one, or load it with hetexp.load_model"
        code = f"from {kind.__module__} import {kind.__name__}; {kind.__name__}().save_pretrained({folder!r})"
        return (
            f"{Path(folder, 'preprocessor_config.json')} is missing, which says how images are scaled: add the one of "
            f"the model's training, or write the architecture's default there with python -c {shlex.quote(code)}"
        )

    def collate(self, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad images [3, H, W] at the right and bottom to one batch on the model's device, as `prepare` returns it."""
        height, width = (max(p.shape[dim] for p in pixels) for dim in (1, 2))
        values = torch.zeros(len(pixels), 3, height, width, dtype=self.dtype)
        mask = torch.zeros(len(pixels), height, width, dtype=torch.long)
        for row, image in enumerate(pixels):
            values[row, :, : image.shape[1], : image.shape[2]] = image
            mask[row, : image.shape[1], : image.shape[2]] = 1
        if self.device.type == "cuda":  # copied while the GPU works on
            values, mask = values.pin_memory(), mask.pin_memory()
        return {
            "pixel_values": values.to(self.device, non_blocking=True),
            "pixel_mask": mask.to(self.device, non_blocking=True),
        }

    # -- for the subclasses ------------------------------------------------------------------------------------

    def _pixels(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Pixels [B, 3, H, W] on the model's device, and height and width of each image without padding."""
        pixels = inputs["pixel_values"].to(self.device, self.dtype)
        if pixels.ndim != 4:
            raise InputError(f"pixel_values must be [B, 3, H, W], got {list(pixels.shape)}: add an axis to one image")
        mask = inputs.get("pixel_mask")
        height, width = pixels.shape[2:]
        return pixels, [(height, width)] * len(pixels) if mask is None else valid_sizes(mask)

    def _asked(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[Sequence[Target]]
    ) -> tuple[list[list[tuple[Target, int]]], list[list[Tensor]]]:
        """Per image (target, query) pairs and their y, from logits [B, Q, ...] and boxes [B, Q, 4] in the graph.

        A target without a query is asked of every kept query; which these are is read from the device once.
        """
        n = logits.shape[1]
        kept: list[list[int]] = [[] for _ in targets]
        if any(target.query is None for own in targets for target in own):
            for b, q in (self.class_scores(logits).amax(-1) > self.score_threshold).nonzero().tolist():
                kept[b].append(q)
        classes = self.class_logits(logits)
        pairs: list[list[tuple[Target, int]]] = []
        for own, found in zip(targets, kept, strict=True):
            for target in own:
                if target.query is not None and not 0 <= target.query < n:
                    raise InputError(f"query {target.query} does not exist: this model has queries 0 to {n - 1}")
            pairs.append([(t, q) for t in own for q in (found if t.query is None else [t.query])])
        return pairs, [
            [target(boxes[b, q] if reads_box(target) else classes[b, q]) for target, q in of_image]
            for b, of_image in enumerate(pairs)
        ]

    def _detections(self, logits: Tensor, boxes: Tensor) -> Detections:
        scores, labels = self.class_scores(logits).max(-1)
        return Detections(self.class_logits(logits), scores, labels, boxes)
