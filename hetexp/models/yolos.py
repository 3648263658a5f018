"""YOLOS (Fang et al., NeurIPS 2021, doi:10.48550/arXiv.2106.00666): one stream of patches and detection tokens.

The stream `tokens` is [CLS, patches, detection tokens] and attends itself from the first layer on, so there is no
homologous part. The source `image` is its patches; a prediction is read from its detection token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import YolosForObjectDetection
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from hetexp.models.observed_detector import Grid, ObservedDetector, Run
from hetexp.models.trace import View
from hetexp.models.wiring import Wire

CLS = 1  # tokens before the first patch


class YolosAdapter(ObservedDetector):
    """A `YolosForObjectDetection`. An image's right and bottom edge beyond the last whole patch are not seen."""

    name = "yolos"
    has_no_object = True
    feature_names = ("embedding",)
    model_class = YolosForObjectDetection
    processor_class = YolosImageProcessorPil

    @property
    def backbone(self) -> nn.Module:
        backbone: nn.Module = self.model.vit.embeddings.patch_embeddings  # its one convolution
        return backbone

    def encoder_wires(self) -> Sequence[Wire]:
        """None: the first layer mixes patches and detection tokens already."""
        return []

    def decoder_wires(self) -> Sequence[Wire]:
        """Every token attends every token."""
        layers = self.model.vit.encoder.layer
        return [Wire(f"layer.{i}.self", x.attention.attention, "tokens", "tokens") for i, x in enumerate(layers)]

    def feature_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """What the first layer reads, positions included."""
        return {"embedding": [self.model.vit.embeddings]}

    def grids(self, pixels: Tensor, projection: Sequence[Tensor]) -> tuple[Grid, ...]:
        """(h, w) of the patches, from the images."""
        patch = self.model.config.patch_size
        return ((pixels.shape[2] // patch, pixels.shape[3] // patch),)

    def padded_length(self, padded: int, real: int, cells: int) -> int:
        """Whole patches along a padded side [pixels]."""
        patch: int = self.model.config.patch_size
        return padded // patch

    def views(self, grids: Sequence[Grid]) -> dict[str, View]:
        """The image is the patches among the tokens."""
        return {"image": View("tokens", CLS + torch.arange(_patches(grids), device=self.device))}

    def readouts(self, queries: Tensor, grids: Sequence[Grid]) -> dict[str, Tensor]:
        """The detection tokens follow the patches."""
        return {"tokens": CLS + _patches(grids) + queries}

    def sizes(self, run: Run) -> dict[str, int]:
        """Tokens of the one stream."""
        return {"tokens": CLS + _patches(run.grids) + run.logits.shape[1]}


def _patches(grids: Sequence[Grid]) -> int:
    return sum(h * w for h, w in grids)


load = YolosAdapter.load
