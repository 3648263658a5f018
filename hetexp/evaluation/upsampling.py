"""How a mask travels from the token grid to the pixels of the image."""

from __future__ import annotations

from enum import StrEnum


class Upsampling(StrEnum):
    """Ways of upsampling.

    Attributes:
        reference: mask bilinear to the network input, foreground wherever anything of a foreground token reaches, then
            nearest to the image: what GAE's code does.
        bilinear: mask bilinear to the network input, foreground above one half, then nearest to the image.
        nearest: mask nearest to the network input and to the image.
        bilinear_relevance: relevance bilinear to the network input, thresholded there, then nearest to the image.
    """

    reference = "reference"
    bilinear = "bilinear"
    nearest = "nearest"
    bilinear_relevance = "bilinear_relevance"
