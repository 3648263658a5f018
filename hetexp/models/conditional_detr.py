"""Conditional DETR (Meng et al., ICCV 2021, doi:10.48550/arXiv.2108.06152): sigmoid classes, reference points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import ConditionalDetrForObjectDetection
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import ConditionalDetrImageProcessorPil
from transformers.models.conditional_detr.modeling_conditional_detr import inverse_sigmoid

from hetexp.models.grid_detector import GridDetector


class ConditionalDetrAdapter(GridDetector):
    """A `ConditionalDetrForObjectDetection`."""

    name = "conditional_detr"
    has_no_object = False
    model_class = ConditionalDetrForObjectDetection
    processor_class = ConditionalDetrImageProcessorPil

    def class_scores(self, logits: Tensor) -> Tensor:
        """Every class has a probability of its own."""
        return logits.sigmoid()

    def decode_boxes(self, decoded: Any) -> Tensor:
        """Boxes relative to the image; their centres are offsets from the queries' reference points."""
        boxes = self.model.bbox_predictor(decoded.last_hidden_state)
        centres = boxes[..., :2] + inverse_sigmoid(decoded.reference_points).transpose(0, 1)  # [B, Q, 2]
        return torch.cat([centres, boxes[..., 2:]], -1).sigmoid()


load = ConditionalDetrAdapter.load
