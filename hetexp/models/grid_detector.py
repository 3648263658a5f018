"""Detectors of the DETR family: a convolutional backbone's grid, a transformer encoder, and object queries.

Streams: `image` (the feature grid, row-major) and `queries`. Encoder layers are self-attention on image; each decoder
layer is self-attention on queries, then queries attend image. An architecture of the family says what its classes and
boxes are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hetexp.models.backbone import folded, padded_features
from hetexp.models.detector import AUTOCAST, ImageDetector
from hetexp.models.finite import require_finite
from hetexp.models.gradients import batched_gradients
from hetexp.models.observe import frozen, pick, resolve_features
from hetexp.models.protocols import Detections
from hetexp.models.trace import AttentionTrace, Features, Group, Layout, Target, View, cells
from hetexp.models.watch import Seen, Watch
from hetexp.models.wiring import Wire, decoder_wires, encoder_wires, step


@dataclass
class _Forward:
    """Everything one observed forward pass left behind."""

    features: dict[str, Tensor]  # by name, in the graph [B, C, h, w] or [B, N, C]
    logits: Tensor  # the model's own [B, Q, ...]
    boxes: Tensor  # [B, Q, 4] cxcywh relative
    shape: tuple[int, int]  # of the grid (h, w), padding included
    grids: list[tuple[int, int]]  # and the part of it that each image fills
    sizes: list[tuple[int, int]]  # height and width of each image without padding
    seen: list[Seen]  # attention, in program order


class GridDetector(ImageDetector):
    """A detector whose parts are run one by one, so that images of several sizes share a batch."""

    feature_names: tuple[str, ...] = ("projection", "backbone", "encoder")

    @abstractmethod
    def decode_boxes(self, decoded: Any) -> Tensor:
        """Boxes [B, Q, 4] (cxcywh, relative) from the decoder's output."""

    def trace(
        self,
        inputs: Mapping[str, Tensor],
        targets: Sequence[Sequence[Target]],
        *,
        features: Collection[str] = (),
    ) -> list[AttentionTrace]:
        wanted = resolve_features(features, self.feature_names)
        names = list(dict.fromkeys(wanted.values()))
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            run = self._forward(inputs, names)
            chosen, scalars = self._asked(run.logits, run.boxes, targets)
            outputs = [seen.output for seen in run.seen]
            found = batched_gradients(scalars, [*outputs, *(run.features[name] for name in names)])
        by_name = dict(zip(names, found[len(outputs) :], strict=True))
        gradients = [
            None if gradient is None else seen.by_head(gradient)
            for seen, gradient in zip(run.seen, found, strict=False)
        ]
        return [
            self._item(run, gradients, {key: (name, by_name[name]) for key, name in wanted.items()}, b, pairs)
            for b, pairs in enumerate(chosen)
        ]

    @torch.no_grad()
    def detect(self, inputs: Mapping[str, Tensor]) -> list[Detections]:
        """Predictions per image, padding handled as in `trace`."""
        run = self._forward(inputs, [], observe=False)
        return [self._detections(logits, boxes) for logits, boxes in zip(run.logits, run.boxes, strict=True)]

    def feature_modules(self) -> dict[str, list[nn.Module]]:
        """Feature name -> the modules whose outputs it is."""
        return {"projection": [self.model.model.input_projection]}

    # -- forward -----------------------------------------------------------------------------------------------

    def _forward(self, inputs: Mapping[str, Tensor], feature_names: Sequence[str], observe: bool = True) -> _Forward:
        run = self._run(inputs, feature_names, observe)
        again = partial(self._run, inputs, [], observe=False)
        require_finite(self.model, run.logits, run.boxes, inputs=inputs, again=again)
        return run

    def _run(self, inputs: Mapping[str, Tensor], feature_names: Sequence[str], observe: bool) -> _Forward:
        inner = self.model.model
        pixels, sizes = self._pixels(inputs)
        with folded(inner.backbone):
            dtype = None if self.autocast is None else AUTOCAST[self.autocast]
            raw, mask, grids = padded_features(inner.backbone, pixels, sizes, dtype)
        if "backbone" in feature_names:
            raw.requires_grad_(observe)
        grid = inner.input_projection(raw)
        if "backbone" not in feature_names:
            grid = grid.detach().requires_grad_(observe)
        padded = any(grid != mask.shape[1:] for grid in grids)
        flat_mask = mask.flatten(1) if padded else None
        positions = inner.position_embedding(shape=grid.shape, device=grid.device, dtype=grid.dtype, mask=mask)
        positions = positions.flatten(2).transpose(1, 2)  # [B, N, d]
        queries = inner.query_position_embeddings.weight.unsqueeze(0).repeat(len(pixels), 1, 1)
        watch = Watch({wire.name: wire.module for wire in self._wires()} if observe else {})
        with watch.watching(self.model):
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
            shape=(mask.shape[1], mask.shape[2]),
            grids=grids,
            sizes=sizes,
            seen=watch.calls,
        )

    def _encoder_wires(self) -> list[Wire]:
        return encoder_wires(self.model.model.encoder.layers)

    def _wires(self) -> list[Wire]:
        return [*self._encoder_wires(), *decoder_wires(self.model.model.decoder.layers, "encoder_attn")]

    # -- trace -------------------------------------------------------------------------------------------------

    def _item(
        self,
        run: _Forward,
        gradients: list[Tensor | None],
        features: Mapping[str, tuple[str, Tensor | None]],  # requested name -> own name and gradient
        b: int,
        pairs: list[tuple[Target, int]],
    ) -> AttentionTrace:
        valid = cells(run.grids[b], run.shape, run.logits.device)
        k = len(pairs)
        groups: list[Group] = [
            (step(wire, seen, gradient, b, k, valid={"image": valid}),)
            for wire, seen, gradient in zip(self._wires(), run.seen, gradients, strict=True)
        ]
        n_encoder = len(self._encoder_wires())
        logits = run.logits[b].detach()
        return AttentionTrace(
            sizes={"image": len(valid), "queries": run.logits.shape[1]},
            views={"image": View("image")},
            encoder=tuple(groups[:n_encoder]),
            fusion=tuple(groups[n_encoder:]),
            readouts={"queries": torch.tensor([q for _, q in pairs], dtype=torch.long, device=run.logits.device)},
            targets=tuple(target for target, _ in pairs),
            layouts={"image": Layout(run.shape, valid, run.sizes[b])},
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
