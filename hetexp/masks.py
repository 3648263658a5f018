"""Masks from relevance: strategies of binarisation and the reference upsampling (public names)."""

from hetexp.evaluation.masks import binarise, otsu, to_image
from hetexp.evaluation.thresholds.registry import get_strategy

__all__ = ["binarise", "get_strategy", "otsu", "to_image"]
