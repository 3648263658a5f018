"""Masks from relevance: Otsu binarisation and the reference upsampling (public names)."""

from hetexp.evaluation.masks import otsu, to_image

__all__ = ["otsu", "to_image"]
