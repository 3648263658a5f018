"""DETR: the attention program of `DetrForObjectDetection`.

Streams: `image` (the feature grid, row-major) and `queries`. Encoder layers are self-attention on image; each
decoder layer is self-attention on queries, then queries attend image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import DetrForObjectDetection
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.errors import ConfigError, InputError
from hetexp.models.attention import own_attention
from hetexp.models.backbone import folded
from hetexp.models.observe import Recorder, frozen, hooked, pick, split_heads
from hetexp.models.trace import (
    AttentionStep,
    AttentionTrace,
    Features,
    Group,
    Layout,
    Target,
    batched_gradients,
)


@dataclass
class _Forward:
    """Everything one observed forward pass left behind."""

    feature: Tensor  # the feature map named by `odam_feature`, in the graph [B, C, h, w] or [B, N, C]
    logits: Tensor  # [B, Q, classes + 1]
    boxes: Tensor  # [B, Q, 4] cxcywh relative
    mask: Tensor  # valid cells [B, h, w]
    recorder: Recorder


class DetrAdapter:
    """Runs a DETR and returns its attention traces.

    Args:
        model: it is set to eval mode; any attention implementation does.
        processor: image preprocessing; only `prepare` needs it.
        keep: queries whose largest class probability exceeds this are kept (protocol 4.2).
        autocast: precision of the frozen backbone's convolutions (torch.bfloat16 or torch.float16); None leaves the
            model's own. What gradients flow through is never touched.
    """

    name = "detr"
    sources: ClassVar[tuple[str, ...]] = ("image",)
    odam_features: ClassVar[tuple[str, ...]] = ("projection", "backbone", "encoder")

    def __init__(
        self,
        model: DetrForObjectDetection,
        processor: DetrImageProcessorPil | None = None,
        *,
        keep: float = 0.5,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.keep = keep
        self.autocast = autocast

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

    def prepare(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Resize, normalise and pad RGB images to `pixel_values` [B, 3, H, W] and `pixel_mask` [B, H, W]."""
        return self.collate([self.preprocess(image) for image in images])

    def preprocess(self, image: Image) -> Tensor:
        """Resize and normalise one RGB image to [3, H, W] on the CPU; safe to call from another thread."""
        if self.processor is None:
            raise ConfigError("this DETR was built without an image processor: load it with hetexp.load_model")
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
        odam_feature: str | None = None,
        features: bool = True,
    ) -> list[AttentionTrace]:
        """Attention traces of a batch, from one forward pass and one backward pass per target.

        Args:
            inputs: `pixel_values` [B, 3, H, W] and optionally `pixel_mask` [B, H, W] (1 = real pixel).
            targets: per image its targets; one without a query stands for every kept query.
            odam_feature: "projection" (default; the backbone's last map after the 1x1 projection), "backbone"
                or "encoder".
            features: False leaves these features out, and the backward pass ends at the first attention.

        Returns:
            one trace per image; its `outputs` hold `logits` [Q, C + 1], `boxes` [Q, 4], and for the k targets
            `queries`, `classes`, `scores` [k].

        Raises:
            InputError: for a query or class that does not exist, or a mask that is no top-left rectangle.
        """
        feature_name = odam_feature or self.odam_features[0]
        if feature_name not in self.odam_features:
            raise ConfigError(
                f"ODAM feature {feature_name!r} is not known for DETR: choose one of {', '.join(self.odam_features)}"
            )
        with torch.enable_grad(), frozen(self.model):
            run = self._forward(inputs, feature_name)
            chosen = [self._expand(run.logits[b], targets[b]) for b in range(len(targets))]
            scalars = [[target(run.logits[b, q, :-1]) for target, q in pairs] for b, pairs in enumerate(chosen)]
            observations = run.recorder.all()
            outputs = [o.output for _, _, o in observations]
            found = batched_gradients(scalars, [*outputs, run.feature] if features else outputs)
            slope = found.pop() if features else None
        return [self._item(run, found, slope, b, pairs) for b, pairs in enumerate(chosen)]

    @torch.no_grad()
    def detect(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, Q, C + 1] and boxes [B, Q, 4] (cxcywh, relative), padding handled as in `trace`."""
        run = self._forward(inputs, self.odam_features[0], observe=False)
        return run.logits, run.boxes

    # -- forward -----------------------------------------------------------------------------------------------

    def _forward(self, inputs: Mapping[str, Tensor], feature_name: str, observe: bool = True) -> _Forward:
        inner = self.model.model
        pixels = inputs["pixel_values"].to(self.device, self.dtype)
        pixel_mask = inputs.get("pixel_mask")
        with folded(inner.backbone):
            raw, mask = self._backbone(pixels, pixel_mask)
        if feature_name == "backbone":
            raw.requires_grad_(observe)
        grid = inner.input_projection(raw)
        if feature_name != "backbone":
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
            ).last_hidden_state
        return _Forward(
            feature={"projection": grid, "backbone": raw, "encoder": encoded}[feature_name],
            logits=self.model.class_labels_classifier(decoded),
            boxes=self.model.bbox_predictor(decoded).sigmoid(),
            mask=mask,
            recorder=recorder,
        )

    @torch.no_grad()
    def _backbone(self, pixels: Tensor, pixel_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Backbone features [B, C, h, w] and valid cells [B, h, w].

        Convolutions would let the padding leak into the image's border cells, so each image's own rectangle is
        run alone (equal sizes together): a padded image has exactly the features of the unpadded one.
        """
        batch, _, height, width = pixels.shape
        sizes = [(height, width)] * batch if pixel_mask is None else [_valid_size(m) for m in pixel_mask]
        encode = self.model.model.backbone
        maps: list[Tensor | None] = [None] * batch
        for size in dict.fromkeys(sizes):
            members = [b for b in range(batch) if sizes[b] == size]
            crop = pixels[members, :, : size[0], : size[1]].contiguous(memory_format=torch.channels_last)  # faster
            with torch.autocast(crop.device.type, self.autocast, enabled=self.autocast is not None):
                features = encode(crop, torch.ones(crop.shape[0], *size, device=crop.device))[-1][0].to(crop.dtype)
            if len(dict.fromkeys(sizes)) == 1 and size == (height, width):  # nothing is padded
                return features, features.new_ones(batch, *features.shape[2:], dtype=torch.bool)
            for row, b in enumerate(members):
                maps[b] = features[row]
        first = maps[0]
        assert first is not None
        h = _grid_length(height, sizes[0][0], first.shape[1])
        w = _grid_length(width, sizes[0][1], first.shape[2])
        out = first.new_zeros(batch, first.shape[0], h, w)
        mask = torch.zeros(batch, h, w, dtype=torch.bool, device=first.device)
        for b, feature in enumerate(maps):
            assert feature is not None
            out[b, :, : feature.shape[1], : feature.shape[2]] = feature
            mask[b, : feature.shape[1], : feature.shape[2]] = True
        return out, mask

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
        kept = (logits.softmax(-1)[:, :-1].amax(-1) > self.keep).nonzero().flatten().tolist()
        pairs: list[tuple[Target, int]] = []
        for target in targets:
            if target.query is not None and not 0 <= target.query < n:
                raise InputError(f"query {target.query} does not exist: this DETR has queries 0 to {n - 1}")
            pairs += [(target, q) for q in (kept if target.query is None else [target.query])]
        return pairs

    def _item(
        self,
        run: _Forward,
        gradients: list[Tensor | None],
        slope: Tensor | None,  # of the feature map, unless it is left out
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
        probabilities = run.logits[b].detach().softmax(-1)[:, :-1]
        queries = torch.tensor([q for _, q in pairs], dtype=torch.long, device=run.logits.device)
        height, width = run.mask.shape[1:]
        groups: list[Group] = [(step,) for step in steps.values()]
        n_encoder = len(self.model.model.encoder.layers)
        return AttentionTrace(
            sizes={"image": len(valid), "queries": run.logits.shape[1]},
            sources=self.sources,
            encoder=tuple(groups[:n_encoder]),
            fusion=tuple(groups[n_encoder:]),
            readout="queries",
            tokens=queries,
            layouts={"image": Layout((height, width), valid)},
            features={} if slope is None else {"image": self._features(run, slope, b, k, valid)},
            outputs={
                "logits": run.logits[b].detach(),
                "boxes": run.boxes[b].detach(),
                "queries": queries,
                "classes": probabilities[queries].argmax(-1),
                "scores": probabilities[queries].amax(-1),
            },
        )

    @staticmethod
    def _features(run: _Forward, gradient: Tensor, b: int, k: int, valid: Tensor) -> Features:
        activation, slope = run.feature[b].detach(), gradient[:k, b]
        if activation.dim() == 3:  # [C, h, w] -> [N, C]
            activation, slope = activation.flatten(1).T, slope.flatten(2).transpose(1, 2)
        return Features(pick(activation, 0, valid), pick(slope, 1, valid))


def _valid_size(mask: Tensor) -> tuple[int, int]:
    """Height and width of the real pixels of one `pixel_mask` [H, W], which must be a top-left rectangle."""
    real = mask.bool()
    height, width = int(real.any(1).sum()), int(real.any(0).sum())
    if height == 0 or width == 0 or int(real.sum()) != height * width or not bool(real[:height, :width].all()):
        raise InputError(
            "pixel_mask must mark one rectangle at the top left of the image (1 = real pixel, 0 = padding); "
            f"got {int(real.sum())} real pixels in {height} rows and {width} columns"
        )
    return height, width


def _grid_length(padded: int, real: int, cells: int) -> int:
    """Cells along a padded side, from how many cells its real part of `real` pixels became.

    Every stride-2 layer of a ResNet maps n to ceil(n / 2).
    """
    while real > cells:
        real, padded = -(-real // 2), -(-padded // 2)
    return padded
