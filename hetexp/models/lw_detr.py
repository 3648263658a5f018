"""LW-DETR and RF-DETR: a vision transformer as the backbone, a convolutional projector, and a deformable decoder.

There is no encoder between backbone and decoder: the projector's tokens are what the decoder reads. The backbone counts
as a convolutional one does, its attention included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import LwDetrForObjectDetection, RfDetrForObjectDetection
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil

from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.wiring import Wire, decoder_wires


class LwDetrAdapter(ObservedDetector):
    """An `LwDetrForObjectDetection` (Chen et al. 2024, doi:10.48550/arXiv.2406.03459)."""

    name = "lw_detr"
    feature_names = ("projection",)
    model_class = LwDetrForObjectDetection
    processor_class = DeformableDetrImageProcessorPil

    def encoder_wires(self) -> Sequence[Wire]:
        """None: what precedes the decoder is the backbone."""
        return []

    def decoder_wires(self) -> Sequence[Wire]:
        """Queries attend each other, then sample the image."""
        return decoder_wires(self.model.model.decoder.layers, "cross_attn")

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The projector's output of every level."""
        return {"projection": list(self.model.model.backbone.projector.scale_layers)}


class RfDetrAdapter(LwDetrAdapter):
    """An `RfDetrForObjectDetection` (Robinson et al. 2025, doi:10.48550/arXiv.2511.09554), on one level.

    The library's own image processor resizes in floating point and needs torchvision; this one resizes 8-bit images as
    PIL does, so pixels may differ by the rounding.
    """

    name = "rf_detr"
    model_class = RfDetrForObjectDetection

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The projector's output."""
        return {"projection": [self.model.model.backbone.projector]}
