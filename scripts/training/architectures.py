"""The detectors that train_detector.py trains: what each is called, made of, and how its queries are scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from pretrain_backbone import backbone_config
from torch import Tensor, nn
from transformers import (
    BaseImageProcessor,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.data.regions.features import MEAN, STD
from hetexp.data.synthetic.sprites import load_sprites
from hetexp.data.synthetic.training_arrays import LONG_SIDE, SHORT_SIDE

FIRST_PROBABILITY = 0.01  # of every class, before training: focal loss needs a start where most queries find nothing
FIRST_SIZE = 0.27  # share of the image's sides that predicted boxes have before training


def _first_guesses(classes: nn.Module, boxes: nn.Module) -> None:
    """Start with rare classes and boxes at the reference points, as the publications do; the library does not."""
    layers = [head.layers[-1] for head in _heads(boxes)]
    with torch.no_grad():
        for head in _heads(classes):
            head.bias.fill_(_logit(FIRST_PROBABILITY))
        for layer in layers:
            layer.weight.zero_()
            layer.bias.zero_()
        layers[0].bias[2:] = _logit(FIRST_SIZE)  # further heads refine what the first one says


def _heads(module: Any) -> list[Any]:
    """One head for all layers of the decoder, or one each."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


@dataclass(frozen=True)
class Architecture:
    """One class of detector of the transformers library.

    Attributes:
        title: its name in a model card.
        config: its configuration's class.
        model: the detector's class.
        processor: its image processor's class.
        has_no_object: logits end with the class "no object" and go through a softmax; otherwise each class has a
            sigmoid of its own and is trained with focal loss.
        loss: the loss in words.
        thresholds: scores above which queries count as detections when precision and recall are measured.
        structure: what a model card adds about its structure, a sentence.
        settings: of the configuration, besides those that all share.
        heads: names of the modules that predict classes and boxes, if they have to start with `_first_guesses`.
    """

    title: str
    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    processor: type[BaseImageProcessor]
    has_no_object: bool
    loss: str
    thresholds: tuple[float, ...]
    structure: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    heads: tuple[str, str] | None = None

    def configuration(self, **changed: Any) -> PreTrainedConfig:
        """A small configuration for the rendered scenes' categories.

        Args:
            changed: settings that replace those of the table.
        """
        names = load_sprites().names
        shared = {
            "backbone_config": backbone_config(),
            "num_queries": 16,
            "d_model": 128,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 256,
            "decoder_ffn_dim": 256,
            "dropout": 0.0,
            "auxiliary_loss": True,
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }
        return self.config(**(shared | dict(self.settings) | changed))

    def untrained(self, backbone: Mapping[str, Tensor], **changed: Any) -> PreTrainedModel:
        """A detector with random weights on a pre-trained, frozen backbone.

        Args:
            backbone: weights of the backbone by name.
            changed: settings as `configuration` takes them.

        Raises:
            SystemExit: if the backbone's weights do not fit.
        """
        model = self.model(self.configuration(**changed))
        missing, unexpected = model.model.backbone.model.load_state_dict(backbone, strict=False)
        # batch normalisation counts its batches in training; a frozen one has no such count
        if missing or [key for key in unexpected if not key.endswith("num_batches_tracked")]:
            raise SystemExit(f"the pre-trained backbone does not fit: missing {missing}, unexpected {unexpected}")
        model.model.freeze_backbone()
        if self.heads is not None:
            _first_guesses(*map(model.get_submodule, self.heads))
        return model

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities of the queries, [..., C] without "no object"."""
        return logits.softmax(-1)[..., :-1] if self.has_no_object else logits.sigmoid()

    def image_processor(self) -> BaseImageProcessor:
        """The image processor that goes with the checkpoint."""
        size = {"shortest_edge": SHORT_SIDE, "longest_edge": LONG_SIDE}
        return self.processor(size=size, image_mean=list(MEAN), image_std=list(STD))


ARCHITECTURES = {
    "detr": Architecture(
        "DETR",
        DetrConfig,
        DetrForObjectDetection,
        DetrImageProcessorPil,
        has_no_object=True,
        loss="DETR's own loss",
        thresholds=(0.5,),
    ),
    "conditional_detr": Architecture(
        "Conditional DETR",
        ConditionalDetrConfig,
        ConditionalDetrForObjectDetection,
        ConditionalDetrImageProcessorPil,
        has_no_object=False,
        loss="Conditional DETR's own loss (sigmoid focal loss, alpha 0.5)",
        thresholds=(0.3, 0.4, 0.5),
        settings=MappingProxyType({"focal_alpha": 0.5}),
        heads=("class_labels_classifier", "bbox_predictor"),
    ),
    "deformable_detr": Architecture(
        "Deformable DETR",
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        DeformableDetrImageProcessorPil,
        has_no_object=False,
        loss="Deformable DETR's own loss (sigmoid focal loss, alpha 0.5)",
        thresholds=(0.3, 0.4, 0.5),
        structure="Two levels of features (strides 16 and 32), 2 sampling points per level and head in the encoder "
        "and 4 in the decoder, iterative box refinement, one stage.",
        settings=MappingProxyType(
            {"focal_alpha": 0.5, "num_feature_levels": 2, "encoder_n_points": 2, "with_box_refine": True}
        ),
        heads=("class_embed", "bbox_embed"),
    ),
}
