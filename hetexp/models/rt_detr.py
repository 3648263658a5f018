"""RT-DETR and the detectors built on its design: RT-DETR v2, D-FINE and DEIMv2.

Their hybrid encoder lets the tokens of single levels attend each other, as a rule those of the coarsest one, and fuses
the levels by convolutions. These count as the backbone's do: they keep a token's position, so a token of the memory
comes from the attended token at its place and from nowhere else. Tokens of the other levels attend nothing.

The queries are the tokens that score best. Which ones these are is a constant to every gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import (
    Deimv2ForObjectDetection,
    DFineForObjectDetection,
    RTDetrForObjectDetection,
    RTDetrV2ForObjectDetection,
)
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from hetexp.models.observed_detector import ObservedDetector
from hetexp.models.wiring import Wire, decoder_wires


class RTDetrAdapter(ObservedDetector):
    """An `RTDetrForObjectDetection` (Zhao et al., CVPR 2024, doi:10.48550/arXiv.2304.08069)."""

    name = "rt_detr"
    model_class = RTDetrForObjectDetection
    processor_class = RTDetrImageProcessorPil

    def encoder_wires(self) -> Sequence[Wire]:
        """Self-attention within each level that has some."""
        encoder = self.model.model.encoder
        attention = [
            (level, layer.self_attn)
            for level, block in zip(self.model.config.encode_proj_layers, encoder.aifi, strict=True)
            for layer in block.layers
        ]
        return [Wire(f"encoder.{i}.self", a, "image", "image", level) for i, (level, a) in enumerate(attention)]

    def decoder_wires(self) -> Sequence[Wire]:
        """Queries attend each other, then sample the image."""
        return decoder_wires(self.model.model.decoder.layers, "encoder_attn")

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """The encoder's input of every level, and what the decoder reads."""
        memory = list(self.model.model.decoder_input_proj)
        projections = self.projections()
        # further, coarser levels begin where the decoder reads them
        return {"projection": [*projections, *memory[len(projections) :]], "encoder": memory}

    def projections(self) -> Sequence[nn.Module]:
        """The modules that the levels of the encoder begin with."""
        return list(self.model.model.encoder_input_proj)


class RTDetrV2Adapter(RTDetrAdapter):
    """An `RTDetrV2ForObjectDetection` (Lv et al. 2024, doi:10.48550/arXiv.2407.17140)."""

    name = "rt_detr_v2"
    model_class = RTDetrV2ForObjectDetection


class DFineAdapter(RTDetrAdapter):
    """A `DFineForObjectDetection` (Peng et al., ICLR 2025, doi:10.48550/arXiv.2410.13842)."""

    name = "d_fine"
    model_class = DFineForObjectDetection

    def decoder_wires(self) -> Sequence[Wire]:
        """As RT-DETR, up to the layer whose predictions are the model's."""
        decoder = self.model.model.decoder
        return decoder_wires(decoder.layers[: decoder.eval_idx + 1], "encoder_attn")


class Deimv2Adapter(DFineAdapter):
    """A `Deimv2ForObjectDetection` (Huang et al. 2025, doi:10.48550/arXiv.2509.20787).

    Its lite encoder holds no attention at all. Attention inside a DINOv3 backbone counts as part of the backbone.
    """

    name = "deimv2"
    model_class = Deimv2ForObjectDetection

    @property
    def backbone(self) -> nn.Module:
        backbone: nn.Module = self.model.model.conv_encoder
        return backbone

    def encoder_wires(self) -> Sequence[Wire]:
        """As RT-DETR; none where the encoder is the lite one."""
        return [] if self._is_lite else super().encoder_wires()

    def projections(self) -> Sequence[nn.Module]:
        """They belong to the backbone, or to the lite encoder, which derives its coarser level itself."""
        if self._is_lite:
            encoder = self.model.model.encoder
            return [*encoder.input_proj, encoder.bi_fusion_conv]
        first = self.model.model.conv_encoder
        return list(first.fusion_proj if hasattr(first, "fusion_proj") else first.encoder_input_proj)

    @property
    def _is_lite(self) -> bool:
        return self.model.config.encoder_type == "lite"
