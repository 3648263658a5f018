"""How a map becomes a mask: what happens at the threshold, and on the way from the token grid to pixels."""

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


class Tie(StrEnum):
    """What a token exactly at the threshold is.

    Attributes:
        background: a token must be above the threshold, as in GAE's code.
        foreground: one at the threshold is in the mask, unless it is the map's least.
    """

    background = "background"
    foreground = "foreground"
