"""Conditional DETR (Meng et al., ICCV 2021, doi:10.1109/ICCV48922.2021.00363): queries with reference points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import ConditionalDetrForObjectDetection
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil

from hetexp.models.grid_detector import GridDetector


class ConditionalDetrAdapter(GridDetector):
    """A `ConditionalDetrForObjectDetection`."""

    name = "conditional_detr"  # `model_type` in its config.json
    has_no_object = False
    model_class = ConditionalDetrForObjectDetection
    processor_class = ConditionalDetrImageProcessorPil

    def class_scores(self, logits: Tensor) -> Tensor:
        """A sigmoid per class: it is trained with the focal loss and has no "no object"."""
        return logits.sigmoid()

    def decode_boxes(self, decoded: Any) -> Tensor:
        """Boxes relative to the image; their centres are offsets from the queries' reference points."""
        offsets = self.model.bbox_predictor(decoded.last_hidden_state)
        reference = decoded.reference_points.transpose(0, 1).logit(eps=1e-5)
        return torch.cat([offsets[..., :2] + reference, offsets[..., 2:]], -1).sigmoid()


load = ConditionalDetrAdapter.load
