"""Table Transformer (Smock et al., CVPR 2022, doi:10.48550/arXiv.2110.00061): a DETR with normalisation first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import TableTransformerForObjectDetection
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.wiring import Wire, decoder_wires, encoder_wires


class TableTransformerAdapter(ObservedDetector):
    """A `TableTransformerForObjectDetection`, for tables or for their structure."""

    name = "table-transformer"
    has_no_object = True
    resnet = "model.backbone.conv_encoder.model"
    model_class = TableTransformerForObjectDetection
    processor_class = DetrImageProcessorPil

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the feature grid."""
        return encoder_wires(self.model.model.encoder.layers)

    def decoder_wires(self) -> Sequence[Wire]:
        """Queries attend each other, then the image."""
        return decoder_wires(self.model.model.decoder.layers, "encoder_attn")

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The encoder's input and output."""
        return {"projection": [self.model.model.input_projection], "encoder": [self.model.model.encoder]}


load = TableTransformerAdapter.load
