"""DETR (Carion et al., ECCV 2020, doi:10.1007/978-3-030-58452-8_13): softmax over the classes and "no object"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor, DetrForObjectDetection
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from hetexp.models.grid_detector import GridDetector
from hetexp.models.original_checkpoints import load_original


class DetrAdapter(GridDetector):
    """A `DetrForObjectDetection`."""

    name = "detr"
    has_no_object = True
    model_class = DetrForObjectDetection
    processor_class = DetrImageProcessorPil
    revisions = {  # with safetensors, and without timm  # noqa: RUF012
        "facebook/detr-resnet-50": "no_timm",
        "facebook/detr-resnet-101": "no_timm",
    }

    def class_scores(self, logits: Tensor) -> Tensor:
        """Softmax over all classes, "no object" left out afterwards."""
        return logits.softmax(-1)[..., :-1]

    def decode_boxes(self, decoded: Any) -> Tensor:
        """Boxes relative to the image."""
        return self.model.bbox_predictor(decoded.last_hidden_state).sigmoid()

    @classmethod
    def _read(cls, source: str, dtype: torch.dtype, revision: str | None) -> tuple[Any, BaseImageProcessor | None]:
        if Path(source).is_file():
            return load_original(Path(source), dtype), DetrImageProcessorPil()
        return super()._read(source, dtype, revision)


load = DetrAdapter.load
