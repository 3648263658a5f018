"""Deformable DETR (Zhu et al., ICLR 2021, doi:10.48550/arXiv.2010.04159), box refinement and two stages included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import DeformableDetrForObjectDetection
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil

from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.wiring import Wire, decoder_wires, encoder_wires


class DeformableDetrAdapter(ObservedDetector):
    """A `DeformableDetrForObjectDetection`."""

    name = "deformable_detr"
    model_class = DeformableDetrForObjectDetection
    processor_class = DeformableDetrImageProcessorPil

    def encoder_wires(self) -> Sequence[Wire]:
        """Deformable attention among the tokens of all levels."""
        return encoder_wires(self.model.model.encoder.layers)

    def decoder_wires(self) -> Sequence[Wire]:
        """Queries attend each other, then sample the image."""
        return decoder_wires(self.model.model.decoder.layers, "encoder_attn")

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The encoder's input of every level, and its output."""
        return {"projection": list(self.model.model.input_proj), "encoder": [self.model.model.encoder]}


load = DeformableDetrAdapter.load
