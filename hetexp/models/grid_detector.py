"""Detectors of the DETR family: a convolutional backbone's grid, a transformer encoder, and object queries.

Streams: `image` (the feature grid, row-major) and `queries`. Encoder layers are self-attention on image; each decoder
layer is self-attention on queries, then queries attend image. An architecture of the family says what its classes and
boxes are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel

from hetexp.errors import ConfigError, InputError
from hetexp.models.attention import own_attention
from hetexp.models.backbone import folded, padded_features, valid_size
from hetexp.models.checkpoints import expect_type, load_weights, pinned, read_config, readable
from hetexp.models.observe import Recorder, frozen, hooked, pick, resolve_features, split_heads
from hetexp.models.original_checkpoints import backbone_renames, dilate, native_backbone
from hetexp.models.protocols import Detections
from hetexp.models.trace import (
    AttentionStep,
    AttentionTrace,
    Features,
    Group,
    Layout,
    Target,
    View,
    batched_gradients,
    reads_box,
)

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class _Forward:
    """Everything one observed forward pass left behind."""

    features: dict[str, Tensor]  # by name, in the graph [B, C, h, w] or [B, N, C]
    logits: Tensor  # the model's own [B, Q, ...]
    boxes: Tensor  # [B, Q, 4] cxcywh relative
    mask: Tensor  # valid cells [B, h, w]
    sizes: list[tuple[int, int]]  # height and width of each image without padding
    recorder: Recorder


class GridDetector(ABC):
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
    feature_names: tuple[str, ...] = ("projection", "backbone", "encoder")
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
    revisions: ClassVar[Mapping[str, str]] = {}  # of hub checkpoints, where the default one does not fit

    @abstractmethod
    def class_scores(self, logits: Tensor) -> Tensor:
        """Class probabilities [..., classes] from the model's own logits."""

    @abstractmethod
    def decode_boxes(self, decoded: Any) -> Tensor:
        """Boxes [B, Q, 4] (cxcywh, relative) from the decoder's output."""

    # -- the rest is the family's ------------------------------------------------------------------------------

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
            dilate(model)
        return cls(model.to(device), processor, score_threshold=score_threshold, autocast=autocast)

    @classmethod
    def _read(cls, source: str, dtype: torch.dtype, revision: str | None) -> tuple[Any, BaseImageProcessor | None]:
        """Model and image processor of a folder or hub id."""
        config = read_config(source, revision)
        expect_type(source, config, cls.name)
        renames = None
        if config.backbone_config.model_type == "timm_backbone":
            config = native_backbone(config)
            renames = backbone_renames(r"(?:model\.)?backbone\.(?:conv_encoder\.)?model\.")
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
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def labels(self) -> dict[int, str]:
        """Class index -> name, without "no object"."""
        return {int(i): str(name) for i, name in self.model.config.id2label.items()}

    @property
    def preparation(self) -> dict[str, Any]:
        processor = None if self.processor is None else self.processor.to_json_string()
        return {"processor": processor, "autocast": self.autocast, "score_threshold": self.score_threshold}

    def prepare(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Resize, normalise and pad RGB images to `pixel_values` [B, 3, H, W] and `pixel_mask` [B, H, W]."""
        return self.collate([self.preprocess(image) for image in images])

    def preprocess(self, image: Image) -> Tensor:
        """Resize and normalise one RGB image to [3, H, W] on the CPU; safe to call from another thread."""
        if self.processor is None:
            raise ConfigError("this detector was built without an image processor: load it with hetexp.load_model")
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]

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
            features: of "projection" (the default one; the backbone's last map after the 1x1 projection), "backbone"
                and "encoder" those to keep with their gradients; without any the backward pass ends at the first
                attention.

        Returns:
            one trace per image; its `outputs` hold the model's own `logits` [Q, ...] and `detections`.

        Raises:
            ConfigError: for a feature that the model does not have.
            InputError: for a query or class that does not exist, or a mask that is no top-left rectangle.
        """
        wanted = resolve_features(features, self.feature_names)
        names = list(dict.fromkeys(wanted.values()))
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            run = self._forward(inputs, names)
            logits = self.class_logits(run.logits)
            chosen = [self._expand(run.logits[b], targets[b]) for b in range(len(targets))]
            scalars = [
                [target(run.boxes[b, q] if reads_box(target) else logits[b, q]) for target, q in pairs]
                for b, pairs in enumerate(chosen)
            ]
            observations = run.recorder.all()
            found = batched_gradients(
                scalars, [*(o.output for _, _, o in observations), *(run.features[name] for name in names)]
            )
        by_name = dict(zip(names, found[len(observations) :], strict=True))
        gradients = found[: len(observations)]
        return [
            self._item(run, gradients, {key: (name, by_name[name]) for key, name in wanted.items()}, b, pairs)
            for b, pairs in enumerate(chosen)
        ]

    @torch.no_grad()
    def detect(self, inputs: Mapping[str, Tensor]) -> list[Detections]:
        """Predictions per image, padding handled as in `trace`."""
        run = self._forward(inputs, [], observe=False)
        return [self._detections(logits, boxes) for logits, boxes in zip(run.logits, run.boxes, strict=True)]

    def _detections(self, logits: Tensor, boxes: Tensor) -> Detections:
        scores, labels = self.class_scores(logits).max(-1)
        return Detections(self.class_logits(logits), scores, labels, boxes)

    # -- forward -----------------------------------------------------------------------------------------------

    def _forward(self, inputs: Mapping[str, Tensor], feature_names: Sequence[str], observe: bool = True) -> _Forward:
        inner = self.model.model
        pixels = inputs["pixel_values"].to(self.device, self.dtype)
        if pixels.ndim != 4:
            raise InputError(f"pixel_values must be [B, 3, H, W], got {list(pixels.shape)}: add an axis to one image")
        pixel_mask = inputs.get("pixel_mask")
        height, width = pixels.shape[2:]
        sizes = [(height, width)] * len(pixels) if pixel_mask is None else [valid_size(m) for m in pixel_mask]
        with folded(inner.backbone):
            dtype = None if self.autocast is None else AUTOCAST[self.autocast]
            raw, mask = padded_features(inner.backbone, pixels, sizes, dtype)
        if "backbone" in feature_names:
            raw.requires_grad_(observe)
        grid = inner.input_projection(raw)
        if "backbone" not in feature_names:
            grid = grid.detach().requires_grad_(observe)
        flat_mask = mask.flatten(1)
        positions = inner.position_embedding(shape=grid.shape, device=grid.device, dtype=grid.dtype, mask=mask)
        positions = positions.flatten(2).transpose(1, 2)  # [B, N, d]
        queries = inner.query_position_embeddings.weight.unsqueeze(0).repeat(len(pixels), 1, 1)
        recorder = Recorder()
        with own_attention(self.model), self._observing(recorder, observe):
            encoded = inner.encoder(
                inputs_embeds=grid.flatten(2).transpose(1, 2),
                attention_mask=flat_mask,
                spatial_position_embeddings=positions,
            ).last_hidden_state
            decoded = inner.decoder(
                # a leaf, or the first self-attention would be a constant to autograd
                inputs_embeds=torch.zeros_like(queries).requires_grad_(observe),
                spatial_position_embeddings=positions,
                object_queries_position_embeddings=queries,
                encoder_hidden_states=encoded,
                encoder_attention_mask=flat_mask,
            )
        offered = {"projection": grid, "backbone": raw, "encoder": encoded}
        return _Forward(
            features={name: offered[name] for name in feature_names},
            logits=self.model.class_labels_classifier(decoded.last_hidden_state),
            boxes=self.decode_boxes(decoded),
            mask=mask,
            sizes=sizes,
            recorder=recorder,
        )

    @contextmanager
    def _observing(self, recorder: Recorder, observe: bool) -> Iterator[None]:
        if not observe:
            yield
            return
        handles = []
        for name, module in self._attention_modules():

            def close(module: Any, args: Any, output: tuple[Tensor, Tensor], name: str = name) -> None:
                recorder.record(name, output[1])

            handles += [
                module.v_proj.register_forward_hook(recorder.value(name)),
                module.o_proj.register_forward_pre_hook(recorder.head_output(name)),
                module.register_forward_hook(close),
            ]
        with hooked(handles):
            yield

    def _attention_modules(self) -> Iterator[tuple[str, Any]]:
        for i, layer in enumerate(self.model.model.encoder.layers):
            yield f"encoder.{i}.self", layer.self_attn
        for i, layer in enumerate(self.model.model.decoder.layers):
            yield f"decoder.{i}.self", layer.self_attn
            yield f"decoder.{i}.cross", layer.encoder_attn

    # -- trace -------------------------------------------------------------------------------------------------

    def _expand(self, logits: Tensor, targets: Sequence[Target]) -> list[tuple[Target, int]]:
        """(target, query) pairs; a target without a query is asked of every kept query."""
        n = logits.shape[0]
        kept = (self.class_scores(logits).amax(-1) > self.score_threshold).nonzero().flatten().tolist()
        pairs: list[tuple[Target, int]] = []
        for target in targets:
            if target.query is not None and not 0 <= target.query < n:
                raise InputError(f"query {target.query} does not exist: this model has queries 0 to {n - 1}")
            pairs += [(target, q) for q in (kept if target.query is None else [target.query])]
        return pairs

    def _item(
        self,
        run: _Forward,
        gradients: list[Tensor | None],
        features: Mapping[str, tuple[str, Tensor | None]],  # requested name -> own name and gradient
        b: int,
        pairs: list[tuple[Target, int]],
    ) -> AttentionTrace:
        valid = run.mask[b].flatten().nonzero().flatten()
        k = len(pairs)
        steps = {}
        for (name, _, seen), gradient in zip(run.recorder.all(), gradients, strict=True):
            assert gradient is not None
            query = "image" if name.startswith("encoder") else "queries"
            key = "image" if not name.startswith("decoder") or name.endswith("cross") else "queries"
            heads = seen.probabilities.shape[1]
            a, v, g = seen.probabilities[b], seen.values[b], gradient[:k, b]
            if key == "image":
                a, v = pick(a, 2, valid), pick(v, 0, valid)
            if query == "image":
                a, g = pick(a, 1, valid), pick(g, 1, valid)
            steps[name] = AttentionStep(name, query, key, a, split_heads(v, heads), split_heads(g, heads))
        height, width = run.mask.shape[1:]
        groups: list[Group] = [(step,) for step in steps.values()]
        n_encoder = len(self.model.model.encoder.layers)
        logits = run.logits[b].detach()
        return AttentionTrace(
            sizes={"image": len(valid), "queries": run.logits.shape[1]},
            views={"image": View("image")},
            encoder=tuple(groups[:n_encoder]),
            fusion=tuple(groups[n_encoder:]),
            readouts={"queries": torch.tensor([q for _, q in pairs], dtype=torch.long, device=run.logits.device)},
            targets=tuple(target for target, _ in pairs),
            layouts={"image": Layout((height, width), valid, run.sizes[b])},
            features={
                key: {"image": _features(run.features[name][b], gradient, b, k, valid)}
                for key, (name, gradient) in features.items()
            },
            outputs={"logits": logits, "detections": self._detections(logits, run.boxes[b].detach())},
        )


def _features(activation: Tensor, gradient: Tensor | None, b: int, k: int, valid: Tensor) -> Features:
    assert gradient is not None
    activation, own = activation.detach(), gradient[:k, b]
    if activation.dim() == 3:  # [C, h, w] -> [N, C]
        activation, own = activation.flatten(1).T, own.flatten(2).transpose(1, 2)
    return Features(pick(activation, 0, valid), pick(own, 1, valid))
