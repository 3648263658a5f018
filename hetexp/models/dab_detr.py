"""DAB-DETR (Liu et al., ICLR 2022, doi:10.48550/arXiv.2201.12329): object queries are boxes, refined by every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import DabDetrForObjectDetection
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil

from hetexp.models.observe import hooked
from hetexp.models.observed_detector import Inputs, ObservedDetector
from hetexp.models.wiring import Wire, decoder_wires, encoder_wires


class DabDetrAdapter(ObservedDetector):
    """A `DabDetrForObjectDetection`; the boxes that a layer reads are constants to the gradient, as in training."""

    name = "dab-detr"
    resnet = "model.backbone.conv_encoder.model"
    model_class = DabDetrForObjectDetection
    processor_class = ConditionalDetrImageProcessorPil

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention of the feature grid."""
        return encoder_wires(self.model.model.encoder.layers)

    def decoder_wires(self) -> Sequence[Wire]:
        """Queries attend each other and then the image; the layer's parts hold the attention modules."""
        layers = self.model.model.decoder.layers
        return decoder_wires(layers, cross="cross_attn.cross_attn", own="self_attn.self_attn")

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The encoder's input and output."""
        return {"projection": [self.model.model.input_projection], "encoder": [self.model.model.encoder]}

    def predict(self, inputs: Inputs) -> Any:
        """The model's own output; its queries start as zeros of single precision, whatever the model's is."""

        def cast(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, kwargs | {"inputs_embeds": kwargs["inputs_embeds"].to(self.dtype)}

        with hooked([self.model.model.decoder.register_forward_pre_hook(cast, with_kwargs=True)]):
            return super().predict(inputs)


load = DabDetrAdapter.load
